"""Exponential moving average of the parameters, evaluated beside the raw ones in [NFNet]."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def ema_decay(step: jax.typing.ArrayLike, decay: float) -> jax.Array:
  """Weight of the old average in the update at `step`: `min(decay, (1 + step) / (10 + step))`.

  The second term lets the average leave the initial parameters quickly.

  Args:
    step: int scalar, number of updates made before this one (0 at the first).
    decay: the final weight, in 0..1 ([NFNet]: 0.99999).

  Returns:
    A float32 scalar.

  Raises:
    ValueError: if decay is outside 0..1.
  """
  return 1.0 - _new_weight(step, decay)


def update(ema: Any, params: Any, step: jax.typing.ArrayLike, decay: float) -> Any:
  """One update of the average: `d * ema + (1 - d) * params` with `d = ema_decay(step, decay)`.

  Args:
    ema: tree of float arrays, the average so far; start it as a copy of the initial parameters.
      Arrays that are not float (counters of a network's state) become the new ones.
    params: tree of the same shapes, the parameters after this step's update.
    step: int scalar, number of updates made before this one (0 at the first).
    decay: the final weight of the old average, in 0..1.

  Returns:
    The new average, in the dtypes of `ema`.

  Raises:
    ValueError: if decay is outside 0..1.
  """
  weight = _new_weight(step, decay)

  def average(old: jax.Array, new: jax.Array) -> jax.Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return new
    return old + weight.astype(old.dtype) * (new - old)

  return jax.tree.map(average, ema, params)


def _new_weight(step: jax.typing.ArrayLike, decay: float) -> jax.Array:
  """Weight of the new parameters. In float32, 1 - 0.99999 would be off by 0.1%; this is exact."""
  if not (math.isfinite(decay) and 0 <= decay <= 1):
    raise ValueError(f'the EMA decay must be between 0 and 1, got {decay!r} (published: 0.99999).')
  return jnp.maximum(1.0 - decay, 9.0 / (10.0 + jnp.asarray(step, jnp.float32)))
