"""Exponential moving average of the parameters; [NFNet] evaluates it and the raw parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets.optim import hyperparameters, trees
from nfnets.optim.units import widened


def ema_decay(
  step: jax.typing.ArrayLike, decay: jax.typing.ArrayLike, *, warmup: bool = True
) -> jax.Array:
  """Weight of the old average in the update at `step`: `min(decay, (1 + step) / (10 + step))`.

  The second term, the warm-up, lets the average leave the initial parameters quickly.

  Args:
    step: int scalar, number of updates made before this one (0 at the first).
    decay: the final weight, in 0..1 ([NFNet]: 0.99999); may be traced.
    warmup: False omits the second term: the weight is `decay` from the first step on.

  Returns:
    A float32 scalar.

  Raises:
    ValueError: if decay is outside 0..1.
  """
  return 1.0 - _new_weight(step, decay, warmup)


def update(
  ema: Any,
  params: Any,
  step: jax.typing.ArrayLike,
  decay: jax.typing.ArrayLike,
  *,
  warmup: bool = True,
) -> Any:
  """One update of the average: `d * ema + (1 - d) * params` with `d = ema_decay(step, decay)`.

  Keep the average in float32, whatever the dtype of the parameters: it is computed in at least
  float32 but rounded to its own dtype. In bfloat16 with a decay of 0.99, it does not move where the
  parameters differ from it by less than a fifth.

  Args:
    ema: tree of arrays, the average so far; start it as a copy of the initial parameters. Arrays
      of integers and bools (counters of a network's state) become the new ones.
    params: tree of the same shapes, the parameters after this step's update.
    step: int scalar, number of updates made before this one (0 at the first).
    decay: the final weight of the old average, in 0..1; may be traced.
    warmup: as in `ema_decay`.

  Returns:
    The new average, in the dtypes of `ema`.

  Raises:
    ValueError: if decay is outside 0..1, or below 1 but rounds to 1 in the dtype of an average,
      which would then never move; or if the trees have different structures.
  """
  weight = _new_weight(step, decay, warmup)
  averages, new, structure = trees.pair(ema, params, ('averages', 'parameters'))
  paths = trees.leaf_paths(ema, is_leaf=trees.is_hole)

  def average(path: str, old: Any, new: Any) -> Any:
    if trees.is_hole(old):
      return old
    dtype = jnp.result_type(old)
    if not jnp.issubdtype(dtype, jnp.inexact):
      return new
    _check_moves(path, dtype, decay)
    old, new = widened(old), widened(new)
    return (old + weight.astype(old.dtype) * (new - old)).astype(dtype)

  return jax.tree.unflatten(structure, map(average, paths, averages, new))


def _new_weight(step: jax.typing.ArrayLike, decay: jax.typing.ArrayLike, warmup: bool) -> jax.Array:
  """Weight of the new parameters. In float32, 1 - 0.99999 would be off by 0.1%; this is exact."""
  if not hyperparameters.passes(decay, lambda x: 0 <= x <= 1):
    raise ValueError(f'the EMA decay must be between 0 and 1, got {decay!r} (published: 0.99999).')
  if not warmup:
    return jnp.asarray(1.0 - decay, jnp.float32)
  return jnp.maximum(1.0 - decay, 9.0 / (10.0 + jnp.asarray(step, jnp.float32)))


def _check_moves(path: str, dtype: np.dtype, decay: jax.typing.ArrayLike) -> None:
  """Raises ValueError if a decay below 1 is 1 in this dtype."""
  if not hyperparameters.passes(decay, lambda x: x == 1 or np.asarray(x).astype(dtype) != 1):
    raise ValueError(
      f'the average of {path!r} is kept in {dtype}, in which the decay {decay} is 1: it would '
      f'stand still; start from a copy in float32.'
    )
