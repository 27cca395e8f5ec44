"""Adaptive gradient clipping, [NFNet] (arXiv 2102.06171) section 4.1, equation 3."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import hyperparameters, trees
from nfnets.optim.units import UnitRule, Units, widened

# [NFNet] equation 3 needs a divisor that is not zero; the published code's.
_SMALLEST_GRAD_NORM = 1e-6


class UnitCounts(NamedTuple):
  """How many units of each array exceed the clipping limit. Both trees have the gradients' shape.

  clipped: one int32 scalar per array. units: one Python int per array.
  """

  clipped: Any
  units: Any


class AdaptiveGradClip(optax.GradientTransformationExtraArgs):
  """A transformation that begins with adaptive gradient clipping; `chain` recognises it by type."""


# [NFNet] section 4.1 trains F0 at batch sizes from 256 to 4096 with clipping from 0.01 to 0.16: the
# larger the batch, the smaller the clipping has to be, and small batches lose accuracy to a small
# one. The steps between its two ends halve with the doubling of the batch.
_CLIPPING_BY_BATCH = ((1024, 0.01), (512, 0.02), (256, 0.04), (128, 0.08), (0, 0.16))


def clipping_for_batch(batch_size: int) -> float:
  """Returns the clipping to start from: 0.01 for batches from 1024, doubled with each halving.

  | batch | 1024 and more | 512 | 256 | 128 | less |
  |---|---|---|---|---|---|
  | clipping | 0.01 | 0.02 | 0.04 | 0.08 | 0.16 |

  Args:
    batch_size: number of examples per update, over all devices.

  Raises:
    ValueError: if batch_size is below 1.
  """
  if batch_size < 1:
    raise ValueError(f'a batch has at least one example, got batch_size={batch_size}.')
  return next(value for smallest, value in _CLIPPING_BY_BATCH if batch_size >= smallest)


def adaptive_grad_clip(
  clipping: jax.typing.ArrayLike,
  eps: jax.typing.ArrayLike = 1e-3,
  mask: Callable[[Any], Any] | None = None,
  unit_rule: UnitRule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Scales each unit's gradient so that its norm is at most `clipping * max(||w||, eps)`.

  Everything in the tree is clipped unless a mask excludes it, as `nfnets.optim.nfnet_sgd` does with
  the classifier. Clipping comes before the optimiser, see `nfnets.optim.chain`.

      optimizer = optax.chain(nfnets.adaptive_grad_clip(0.01), optax.adam(1e-3))

  Norms are computed in at least float32.

  Args:
    clipping: largest allowed ratio of gradient norm to weight norm ([NFNet]: 0.01 for batches of
      1024 to 4096, up to 0.16 for small ones). It and eps may be traced.
    eps: smallest weight norm, so that units that start at zero can move.
    mask: parameters -> tree of bools, True where to clip, e.g. `nfnets.optim.clip_mask`.
    unit_rule: (`<module path>/<name>`, shape) -> the axes that one norm sums over, e.g.
      `nfnets.optim.per_output`. None is the published rule, `nfnets.optim.unit_axes`. For
      optax.inject_hyperparams, this and mask are static_args.

  Returns:
    A transformation whose `update(grads, state, params)` needs `params`, a tree of float arrays
    like `grads`. None or optax.MaskedNode in grads stays. It keeps no state and ignores
    extra arguments.

  Raises:
    ValueError: if clipping or eps is not positive and finite; from `update` if params is missing,
      or not a tree like grads, or if there is no rule for an array (published: over five axes).
  """
  _check_clipping(clipping, eps)

  def update(grads, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError(
        'adaptive_grad_clip compares gradients with parameters and got none; call '
        'update(grads, state, params).'
      )
    units = Units(grads, params, unit_rule)
    clipped = list(units.grads)
    for places, norms, limits in units.norms_and_limits(clipping, eps):
      factors = limits / jnp.maximum(norms, _SMALLEST_GRAD_NORM)
      for i, place in enumerate(places):
        norm, limit, factor = (_of_member(x, i, places) for x in (norms, limits, factors))
        leaf = jnp.asarray(units.grads[place])
        wide, within = widened(leaf), norm < limit
        scaled = (wide * factor.astype(wide.dtype)).astype(leaf.dtype)
        clipped[place] = jnp.where(within, leaf, scaled)
    return jax.tree.unflatten(units.structure, clipped), state

  whole = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
  return AdaptiveGradClip(*(whole if mask is None else trees.masked(whole, mask)))


def _check_clipping(clipping: jax.typing.ArrayLike, eps: jax.typing.ArrayLike) -> None:
  """Raises ValueError unless both numbers are positive and finite."""
  for name, number in (('clipping', clipping), ('eps', eps)):
    if not hyperparameters.passes(number, lambda x: 0 < x < math.inf):
      raise ValueError(
        f'{name} must be a positive finite number, got {number!r}; the published values are '
        f'clipping=0.01 and eps=1e-3.'
      )


def _of_member(values: jax.Array, index: int, places: list[int]) -> jax.Array:
  return values[index] if len(places) > 1 else values


def chain(
  *transformations: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """`optax.chain` that refuses adaptive gradient clipping anywhere but at the beginning.

  After an optimiser the clipping would compare parameters with updates instead of gradients: with
  Adam every update has the size of the learning rate, so nothing or everything is clipped.

  It recognises clipping made by `adaptive_grad_clip` (with `mask`, if part of the tree is left out)
  and chains of it that this function made. It cannot see into `optax.chain` or `optax.masked`.

  Args:
    *transformations: in the order in which they change the gradients. Extra arguments of `update`
      (such as the `value` of optax.contrib.reduce_on_plateau) reach those that take them.

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


def clipped_share(
  grads: Any,
  params: Any,
  clipping: jax.typing.ArrayLike,
  eps: jax.typing.ArrayLike = 1e-3,
  unit_rule: UnitRule | None = None,
) -> UnitCounts:
  """Counts, per array, the units whose gradient exceeds `clipping * max(||w||, eps)`.

  Inside one jitted step the compiler shares these norms with `adaptive_grad_clip`. Sum the counts
  with `nfnets.optim.sum_by_group` and divide for the share of a parameter group. An array that is
  not clipped (the classifier) is counted as if it were.

  Args:
    grads: tree of float arrays, the gradients before clipping. None and optax.MaskedNode stay.
    params: tree of arrays of the same shapes.
    clipping: as in `adaptive_grad_clip`.
    eps: as in `adaptive_grad_clip`.
    unit_rule: as in `adaptive_grad_clip`.

  Returns:
    The counts of clipped and of all units.

  Raises:
    ValueError: what `adaptive_grad_clip` raises.
  """
  _check_clipping(clipping, eps)
  units = Units(grads, params, unit_rule)
  clipped, counts = list(units.grads), list(units.grads)
  for places, norms, limits in units.norms_and_limits(clipping, eps):
    over = norms > limits
    for i, place in enumerate(places):
      clipped[place] = jnp.sum(_of_member(over, i, places), dtype=jnp.int32)
      counts[place] = units.count(place)
  return UnitCounts(*(jax.tree.unflatten(units.structure, part) for part in (clipped, counts)))
