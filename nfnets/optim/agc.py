"""Adaptive gradient clipping, [NFNet] (arXiv 2102.06171) section 4.1, equation 3."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# [NFNet] equation 3 needs a divisor that is not zero; the published code's.
_SMALLEST_GRAD_NORM = 1e-6


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


class AdaptiveGradClip(optax.GradientTransformation):
  """A transformation that begins with adaptive gradient clipping; `chain` knows it by this type."""


# [NFNet] section 4.1 trains F0 at batch sizes from 256 to 4096 with clipping from 0.01 to 0.16: the
# larger the batch, the smaller the clipping has to be, and small batches lose accuracy to a small
# one. The steps between its two ends halve with the doubling of the batch.
_CLIPPING_BY_BATCH = ((1024, 0.01), (512, 0.02), (256, 0.04), (128, 0.08), (0, 0.16))


def clipping_for_batch(batch_size: int) -> float:
  """Returns the clipping to begin with: 0.01 from a batch of 1024 on, doubled with each halving.

  | batch | 1024 and more | 512 | 256 | 128 | less |
  |---|---|---|---|---|---|
  | clipping | 0.01 | 0.02 | 0.04 | 0.08 | 0.16 |

  Args:
    batch_size: examples of one update, over all devices.

  Raises:
    ValueError: if batch_size is below 1.
  """
  if batch_size < 1:
    raise ValueError(f'a batch has at least one example, got batch_size={batch_size}.')
  return next(value for smallest, value in _CLIPPING_BY_BATCH if batch_size >= smallest)


def adaptive_grad_clip(
  clipping: float, eps: float = 1e-3, mask: Callable[[Any], Any] | None = None
) -> optax.GradientTransformation:
  """Scales each unit's gradient so that its norm is at most `clipping * max(||w||, eps)`.

  The units are those of `unit_axes`. Everything in the tree is clipped unless a mask leaves
  something out, as `nfnets.optim.nfnet_sgd` does with the classifier. Clipping comes before the
  optimiser, see `nfnets.optim.chain`.

  Args:
    clipping: largest allowed ratio of gradient norm to weight norm ([NFNet]: 0.01 for batches of
      1024 to 4096, up to 0.16 for small ones).
    eps: smallest weight norm, so that units that start at zero can move.
    mask: tree -> tree of bools, True where to clip, e.g. `nfnets.optim.clip_mask`.

  Returns:
    A transformation whose `update(grads, state, params)` needs `params`, a tree of float arrays
    like `grads`. It keeps no state.

  Raises:
    ValueError: if clipping or eps is not positive and finite; from `update` if params is missing
      or an array has more than five axes.
  """
  check_clipping(clipping, eps)

  def update(grads, state, params=None):
    if params is None:
      raise ValueError(
        'adaptive_grad_clip compares gradients with parameters and got none; call '
        'update(grads, state, params).'
      )
    leaves, treedef = jax.tree.flatten(grads)
    clipped = [None] * len(leaves)
    for places, norms, limits in _norms_and_limits(leaves, params, clipping, eps):
      factors = limits / jnp.maximum(norms, _SMALLEST_GRAD_NORM)
      for i, place in enumerate(places):
        norm, limit, factor = (_of_member(x, i, places) for x in (norms, limits, factors))
        leaf = leaves[place]
        clipped[place] = jnp.where(norm < limit, leaf, leaf * factor.astype(leaf.dtype))
    return jax.tree.unflatten(treedef, clipped), state

  whole = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
  return AdaptiveGradClip(*(whole if mask is None else optax.masked(whole, mask)))


def _norms_and_limits(
  grads: list[jax.Array], params: Any, clipping: float, eps: float
) -> Iterator[tuple[list[int], jax.Array, jax.Array]]:
  """Yields (places of arrays, norms of their gradients' units, clipping * max(||w||, eps)).

  Arrays of one shape that are one unit each (gains, biases, scalars) come together, as vectors
  [number of arrays]: hundreds of single numbers would each be an operation of their own. The others
  come alone, the summed axes kept.
  """
  params = jax.tree.leaves(params)
  together: dict[tuple[int, ...], list[int]] = {}
  for place, grad in enumerate(grads):
    shape = jnp.shape(grad)
    alone = len(unit_axes(shape)) < len(shape)
    together.setdefault((place,) if alone else ('one', *shape), []).append(place)

  def norms(arrays: list[jax.Array]) -> jax.Array:
    if len(arrays) == 1:
      return jnp.sqrt(squares(arrays[0]))
    stacked = jnp.stack([jnp.ravel(x) for x in arrays])
    return jnp.sqrt(jnp.sum(jnp.square(stacked), axis=1))

  for places in together.values():
    limits = clipping * jnp.maximum(norms([params[i] for i in places]), eps)
    yield places, norms([grads[i] for i in places]), limits


def squares(x: jax.Array) -> jax.Array:
  """The squared norm of each unit of an array, the summed axes kept."""
  return jnp.sum(jnp.square(x), axis=unit_axes(jnp.shape(x)), keepdims=True)


def _of_member(values: jax.Array, index: int, places: list[int]) -> jax.Array:
  return values[index] if len(places) > 1 else values


def chain(*transformations: optax.GradientTransformation) -> optax.GradientTransformation:
  """`optax.chain` that refuses adaptive gradient clipping anywhere but at the beginning.

  After an optimiser the clipping would compare parameters with updates instead of gradients: with
  Adam every update has the size of the learning rate, so nothing or everything is clipped.

  It knows clipping that `adaptive_grad_clip` made (with `mask`, if part of the tree is left out)
  and chains that this function made from it. It cannot see into `optax.chain` or `optax.masked`.

  Args:
    *transformations: in the order in which they change the gradients.

  Raises:
    ValueError: if the clipping is not the first, or there are two.
  """
  places = [i for i, part in enumerate(transformations) if isinstance(part, AdaptiveGradClip)]
  if any(places):
    raise ValueError(
      f'adaptive gradient clipping is number {max(places) + 1} of {len(transformations)} in the '
      'chain, but it compares gradients with parameters, so it must come before the optimiser: '
      'chain(adaptive_grad_clip(...), optimiser).'
    )
  chained = optax.chain(*transformations)
  return AdaptiveGradClip(chained.init, chained.update) if places else chained


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
  leaves, treedef = jax.tree.flatten(grads)
  clipped = [None] * len(leaves)
  for places, norms, limits in _norms_and_limits(leaves, params, clipping, eps):
    over = norms > limits
    for i, place in enumerate(places):
      clipped[place] = jnp.sum(_of_member(over, i, places), dtype=jnp.int32)

  def count_units(grad: jax.Array) -> int:
    shape = jnp.shape(grad)
    return math.prod(shape) // max(math.prod(shape[axis] for axis in unit_axes(shape)), 1)

  return UnitCounts(
    clipped=jax.tree.unflatten(treedef, clipped), units=jax.tree.map(count_units, grads)
  )
