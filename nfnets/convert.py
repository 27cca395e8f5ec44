"""Standardises the weights of any Haiku network's convolutions, without editing the network."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import execution


@contextlib.contextmanager
def weight_standardized(
  *,
  skip: Callable[[str], bool] | None = None,
  remove_batch_norm: bool = False,
  epsilon: float = 1e-4,
) -> Iterator[None]:
  """Inside, every Haiku convolution has standardised weights and a gain per output channel.

  Used in the transformed function, around the network's construction and call:

      def forward(images):
        with nfnets.weight_standardized(remove_batch_norm=True):
          return SomeNetwork()(images)

  This applies to `hk.Conv1D`, `2D`, `3D`, their transposed and depthwise forms, and modules built
  from them. Their `w` and `b` keep path, shape and initialiser; each also gets a `gain` [O] that
  starts at 1. Linear layers do not change.

  When it is valid: each convolution then preserves variance ([SigProp] section 4, arXiv
  2101.08692), so the network needs no normalisation if the other layers preserve it too:

  * activations scaled by their gamma (`nfnets.activations.scaled`);
  * residual branches that see inputs of variance one and are added with a small weight, as
    `x + alpha * skip_gain * branch(x / expected_std)` ([NFNet] section 2). A network written for
    BatchNorm does not divide, so its variance grows with each block: such blocks need editing.

  BatchNorm also regularises: expect to need dropout, stochastic depth and adaptive gradient
  clipping.

  Args:
    skip: module path -> whether to leave that module alone, e.g. the 1x1 convolutions of
      squeeze-excite or of a classifier.
    remove_batch_norm: whether `hk.BatchNorm` returns its input; then it has neither parameters nor
      state. If False it still normalises, now after standardised convolutions.
    epsilon: see `nfnets.execution.standardize`.

  Raises:
    ValueError: from a convolution with a mask, whose variance standardisation cannot preserve.
  """

  def standardize(next_getter, value: jax.Array, context: hk.GetterContext) -> jax.Array:
    module = context.module
    if context.name == 'w' and not (skip and skip(context.module_name)):
      value = _standardized(module, value, epsilon)
    return next_getter(value)

  def bypass(next_function, args: tuple, kwargs: dict[str, Any], context) -> Any:
    module = context.module
    is_call = isinstance(module, hk.BatchNorm) and context.method_name == '__call__'
    if remove_batch_norm and is_call and not (skip and skip(module.module_name)):
      return args[0] if args else kwargs['inputs']
    return next_function(*args, **kwargs)

  with hk.custom_getter(standardize), hk.intercept_methods(bypass):
    yield


def _standardized(module: hk.Module | None, w: jax.Array, epsilon: float) -> jax.Array:
  """The weights that a module convolves with; w itself if the module is no convolution."""
  is_transposed = isinstance(module, hk.ConvNDTranspose)
  is_depthwise = isinstance(module, hk.DepthwiseConv1D | hk.DepthwiseConv2D | hk.DepthwiseConv3D)
  if not isinstance(module, hk.ConvND) and not is_transposed and not is_depthwise:
    return w
  if getattr(module, 'mask', None) is not None:
    raise ValueError(
      f'{module.module_name} has a mask, which would undo the standardisation of its weights: '
      'leave it out with skip.'
    )
  # Zeros between the inputs: an output pixel sees one in `spacing` taps of the kernel.
  spacing = math.prod(_tuple(module.stride if is_transposed else module.lhs_dilation))
  output_axis = -2 if is_transposed else -1  # Haiku's transposed convolutions have [..., O, I]
  w = jnp.moveaxis(w, output_axis, -1)
  gain = hk.get_parameter('gain', w.shape[-1:], w.dtype, init=jnp.ones)
  w = execution.standardize(w, gain * math.sqrt(spacing), epsilon=epsilon)
  return jnp.moveaxis(w, -1, output_axis)


def _tuple(value: Any) -> tuple[int, ...]:
  return tuple(value) if isinstance(value, tuple | list) else (value,)
