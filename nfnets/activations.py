"""Activations scaled so that a standard normal input gives an output of variance one.

`gamma = 1 / std(act(z))`, z ~ N(0, 1): [SigProp] section 4.3 (arXiv 2101.08692).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Activation(NamedTuple):
  """One activation.

  Attributes:
    function: the plain function.
    gamma: the factor that restores unit variance.
    is_elementwise: whether each number of the output depends on one number of the input.
  """

  function: Callable[[jax.Array], jax.Array]
  gamma: float
  is_elementwise: bool = True


ACTIVATIONS: dict[str, Activation] = {
  'identity': Activation(lambda x: x, 1.0),
  'celu': Activation(jax.nn.celu, 1.270926833152771),
  'elu': Activation(jax.nn.elu, 1.2716004848480225),
  'gelu': Activation(lambda x: jax.nn.gelu(x, approximate=True), 1.7015043497085571),
  'gelu_exact': Activation(lambda x: jax.nn.gelu(x, approximate=False), 1.7015043497085571),
  'glu': Activation(jax.nn.glu, 1.8484294414520264, is_elementwise=False),  # halves the channels
  'leaky_relu': Activation(jax.nn.leaky_relu, 1.70590341091156),
  'log_sigmoid': Activation(jax.nn.log_sigmoid, 1.9193484783172607),
  'log_softmax': Activation(jax.nn.log_softmax, 1.0002083778381348, is_elementwise=False),
  'relu': Activation(jax.nn.relu, 1.7139588594436646),
  'relu6': Activation(jax.nn.relu6, 1.7131484746932983),
  'selu': Activation(jax.nn.selu, 1.0008515119552612),
  'sigmoid': Activation(jax.nn.sigmoid, 4.803835391998291),
  'silu': Activation(jax.nn.silu, 1.7881293296813965),
  'swish': Activation(jax.nn.silu, 1.7881293296813965),
  'soft_sign': Activation(jax.nn.soft_sign, 2.338853120803833),
  'softplus': Activation(jax.nn.softplus, 1.9203323125839233),
  'tanh': Activation(jnp.tanh, 1.5939117670059204),
}


@dataclasses.dataclass(frozen=True)
class Scaled:
  """`x -> activation(x) * factor * ...`, any shape, the input's dtype.

  Attributes:
    activation: what is scaled.
    factors: applied one after the other.
  """

  activation: Activation
  factors: tuple[float, ...] = ()

  def __call__(self, x: jax.Array) -> jax.Array:
    """Applies it."""
    x = self.activation.function(x)
    for factor in self.factors:
      x = x * factor
    return x

  def times(self, factor: float) -> 'Scaled':
    """Returns this activation, scaled by another factor."""
    return dataclasses.replace(self, factors=(*self.factors, factor))

  def unscaled(self) -> 'Scaled':
    """Returns the activation without its factors."""
    return dataclasses.replace(self, factors=())


def get(name: str) -> Activation:
  """Returns the activation called `name`.

  Raises:
    ValueError: there is no such activation.
  """
  if name not in ACTIVATIONS:
    known = ', '.join(sorted(ACTIVATIONS))
    raise ValueError(f'Unknown activation {name!r}: choose one of {known}.')
  return ACTIVATIONS[name]


def scaled(name: str) -> Scaled:
  """Returns `x -> gamma * act(x)`, any shape, the input's dtype.

  Raises:
    ValueError: there is no such activation.
  """
  activation = get(name)
  return Scaled(activation, (activation.gamma,))


def is_elementwise(function: Callable[[jax.Array], jax.Array]) -> bool:
  """Whether a function is an elementwise activation of this module."""
  return isinstance(function, Scaled) and function.activation.is_elementwise
