"""Adaptive gradient clipping, [NFNet] (arXiv 2102.06171) section 4.1, equation 3."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class UnitCounts(NamedTuple):
  """How many units of each array exceed the clipping limit. Both trees have the gradients' shape.

  clipped: one int32 scalar per array. units: one Python int per array.
  """

  clipped: Any
  units: Any


def check_clipping(clipping: float, eps: float) -> None:
  """Raises ValueError unless both numbers are positive and finite."""
  for name, number in (('clipping', clipping), ('eps', eps)):
    if not (math.isfinite(number) and number > 0):
      raise ValueError(
        f'{name} must be a positive finite number, got {number!r}; the published values are '
        f'clipping=0.01 and eps=1e-3.'
      )


def unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The axes that one norm of adaptive gradient clipping sums over; the others count the units.

  Scalars, vectors and whatever has at most one axis longer than 1: all axes. 2-D `[in, out]` and
  3-D (multi-head linear): axis 0. 4-D `[H, W, in, out]` and 5-D `[D, H, W, in, out]`: all but the
  last. These are the rules of `optax.adaptive_grad_clip`.

  A 3-D array is read as `[in, heads, out]`, so a 1-D convolution `[W, in, out]` is clipped per
  (in, out) pair, more finely than per output.

  Raises:
    ValueError: for more than five axes.
  """
  if sum(size != 1 for size in shape) <= 1:
    return tuple(range(len(shape)))
  if len(shape) in (2, 3):
    return (0,)
  if len(shape) in (4, 5):
    return tuple(range(len(shape) - 1))
  raise ValueError(
    f'adaptive gradient clipping has no rule for a parameter of shape {shape}; it knows up to 5 '
    f'axes, so reshape the parameter or keep it out of the clipping with a mask.'
  )


def adaptive_grad_clip(clipping: float, eps: float = 1e-3) -> optax.GradientTransformation:
  """Scales each unit's gradient so that its norm is at most `clipping * max(||w||, eps)`.

  The units are those of `unit_axes`. Everything in the tree is clipped: leave out a classifier
  with `optax.masked`, as `nfnets.optim.nfnet_sgd` does.

  Args:
    clipping: largest allowed ratio of gradient norm to weight norm ([NFNet]: 0.01 for batches of
      1024 to 4096, up to 0.16 for small ones).
    eps: smallest weight norm, so that units that start at zero can move.

  Returns:
    A transformation whose `update(grads, state, params)` needs `params`, a tree of float arrays
    like `grads`. It keeps no state.

  Raises:
    ValueError: if clipping or eps is not positive and finite; from `update` if params is missing
      or an array has more than five axes.
  """
  check_clipping(clipping, eps)
  inner = optax.adaptive_grad_clip(clipping, eps)

  def update(grads, state, params=None):
    if params is None:
      raise ValueError(
        'adaptive_grad_clip compares gradients with parameters and got none; call '
        'update(grads, state, params).'
      )
    for leaf in jax.tree.leaves(grads):
      unit_axes(jnp.shape(leaf))
    return inner.update(grads, state, params)

  return optax.GradientTransformation(inner.init, update)


def clipped_share(grads: Any, params: Any, clipping: float, eps: float = 1e-3) -> UnitCounts:
  """Counts, per array, the units whose gradient exceeds `clipping * max(||w||, eps)`.

  Inside one jitted step the compiler shares these norms with `adaptive_grad_clip`. Sum the counts
  with `nfnets.optim.sum_by_group` and divide for the share of a parameter group. An array that is
  not clipped (the classifier) is counted as if it were.

  Args:
    grads: tree of float arrays, the gradients before clipping.
    params: tree of arrays of the same shapes.
    clipping: as in `adaptive_grad_clip`.
    eps: as in `adaptive_grad_clip`.

  Returns:
    The counts of clipped and of all units.

  Raises:
    ValueError: if clipping or eps is not positive and finite, or an array has over five axes.
  """
  check_clipping(clipping, eps)

  def count_clipped(grad: jax.Array, param: jax.Array) -> jax.Array:
    axes = unit_axes(jnp.shape(grad))
    grad_norm, norm = (jnp.sqrt(jnp.sum(jnp.square(x), axis=axes)) for x in (grad, param))
    return jnp.sum(grad_norm > clipping * jnp.maximum(norm, eps), dtype=jnp.int32)

  def count_units(grad: jax.Array) -> int:
    shape = jnp.shape(grad)
    return math.prod(shape) // max(math.prod(shape[axis] for axis in unit_axes(shape)), 1)

  return UnitCounts(
    clipped=jax.tree.map(count_clipped, grads, params), units=jax.tree.map(count_units, grads)
  )
