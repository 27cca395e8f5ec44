"""Fast initial parameters, and initial parameters with every residual branch active."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

Tree = dict[str, dict[str, jax.Array]]


def initialize(network: Callable[..., Any], rng: jax.Array, *args: Any) -> tuple[Tree, Tree]:
  """Returns parameters and state from a network's own initialisers, without running it.

  The distributions are those of `hk.transform_with_state(network).init`, but the random numbers
  differ. That function compiles a program as large as the network, or runs it; here equal
  initialisers of equal shapes are compiled once: a network of 200 blocks takes seconds instead of
  minutes. State that only a run would set is zeros, so batch normalisation must use the statistics
  of the batch.

  Args:
    network: a function that builds and calls Haiku modules.
    rng: key.
    *args: the network's arguments, arrays or `jax.ShapeDtypeStruct`s.
  """
  found: dict[tuple[str, str, str], tuple] = {}

  def recorder(kind: str):
    def creator(next_creator, shape, dtype, init, context):
      found[(kind, context.module_name, context.name)] = (init, tuple(shape), dtype)
      return next_creator(shape, dtype, init)

    return creator

  def watched(*args):
    with (
      hk.custom_creator(recorder('params')),
      hk.custom_creator(recorder('state'), params=False, state=True),
    ):
      return network(*args)

  _, state_shapes = jax.eval_shape(hk.transform_with_state(watched).init, rng, *args)
  trees: dict[str, Tree] = {'params': {}, 'state': {}}
  # This kind of generator compiles in a fraction of the time.
  rng = jax.random.key(jax.random.bits(rng), impl='rbg')
  for i, ((kind, module, name), (init, shape, dtype)) in enumerate(found.items()):
    draw = _drawer(_Law(init), shape, jnp.dtype(dtype))
    trees[kind].setdefault(module, {})[name] = draw(jax.random.fold_in(rng, i))
  for module, entries in state_shapes.items():
    for name, shape in entries.items():
      trees['state'].setdefault(module, {}).setdefault(name, jnp.zeros(shape.shape, shape.dtype))
  return trees['params'], trees['state']


def open_branches(params: Mapping[str, Mapping[str, Any]], rng: jax.Array) -> Tree:
  """Returns freshly initialised parameters with every residual branch active.

  Blocks start as the identity because a skip gain, gains or weights are zero, and a branch that is
  multiplied by zero shows nothing. Skip gains and all-zero gains become 1; all-zero convolutions
  are drawn from N(0, 2 / fan_in). Trained parameters, which are not zero, do not change.

  Args:
    params: module path -> name -> array.
    rng: key of the draws.
  """
  opened: Tree = {}
  for i, (module, entries) in enumerate(params.items()):
    opened[module] = dict(entries)
    for name, value in entries.items():
      is_gain = name in ('skip_gain', 'gain')
      is_kernel = name == 'w' and jnp.ndim(value) == 4
      if not (is_gain or is_kernel) or jnp.any(value != 0):
        continue
      if is_gain:
        opened[module][name] = jnp.ones_like(value)
      else:
        scale = math.sqrt(2 / math.prod(value.shape[:-1]))
        key = jax.random.fold_in(rng, i)
        opened[module][name] = scale * jax.random.normal(key, value.shape, value.dtype)
  return opened


class _Law:
  """An initialiser, equal to others that draw from the same law."""

  def __init__(self, init: Any):
    """Haiku's are told apart by their settings, others by identity."""
    self.init = init
    is_known = type(init).__module__.startswith('haiku')
    self.key = (type(init), repr(sorted(vars(init).items()))) if is_known else (id(init),)

  def __eq__(self, other: object) -> bool:
    """Whether the laws are the same."""
    return isinstance(other, _Law) and self.key == other.key

  def __hash__(self) -> int:
    """Of the key."""
    return hash(self.key)


@functools.lru_cache(maxsize=512)
def _drawer(law: _Law, shape: tuple[int, ...], dtype: Any) -> Callable[[jax.Array], jax.Array]:
  """A compiled function from a key to a draw."""
  return jax.jit(lambda key: hk.transform(lambda: law.init(shape, dtype)).apply({}, key))
