"""Optimisers and the published learning-rate schedule, composed from optax's parts."""

import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import agc, groups, hyperparameters, trees
from nfnets.optim.units import UnitRule


def warmup_cosine(
  *,
  peak: jax.typing.ArrayLike,
  warmup_steps: jax.typing.ArrayLike,
  total_steps: jax.typing.ArrayLike,
  floor: jax.typing.ArrayLike = 0.0,
) -> optax.Schedule:
  """Linear warm-up from 0 to `peak`, then half a cosine down to `floor` at `total_steps`.

  The schedule of [NFNet] and [SigProp]: peak 0.1 per 256 images of the batch, 5 of 360 epochs of
  warm-up. Steps may be fractional, since 5 epochs are rarely a whole number of steps. Every
  argument may be traced; the order of traced arguments is not checked.

  Args:
    peak: the learning rate at the end of the warm-up.
    warmup_steps: length of the warm-up, at least 0 and less than total_steps.
    total_steps: length of the whole schedule; later steps keep `floor`.
    floor: the last learning rate, at most `peak`.

  Returns:
    A function of an int step (0 at the first update; traced or not) to a float32 scalar.

  Raises:
    ValueError: if the lengths or the rates are out of order.
  """
  passes = hyperparameters.passes
  if not (
    passes(total_steps, lambda total: 0 < total < math.inf)
    and passes(warmup_steps, lambda warmup: 0 <= warmup < math.inf)
    and passes(warmup_steps, lambda warmup: passes(total_steps, lambda total: warmup < total))
  ):
    raise ValueError(
      f'expected 0 <= warmup_steps < total_steps, got warmup_steps={warmup_steps} and '
      f'total_steps={total_steps}; shorten the warm-up or train longer.'
    )
  if not (
    passes(peak, lambda highest: 0 <= highest < math.inf)
    and passes(floor, lambda last: 0 <= last < math.inf)
    and passes(floor, lambda last: passes(peak, lambda highest: last <= highest))
  ):
    raise ValueError(f'expected 0 <= floor <= peak, got floor={floor} and peak={peak}.')

  # Without warm-up, `rising` is not used, and must not be a division by zero.
  traced = isinstance(warmup_steps, jax.core.Tracer)
  warmup = jnp.where(warmup_steps > 0, warmup_steps, 1.0) if traced else warmup_steps or 1.0

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rising = peak * step / warmup
    progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
    falling = floor + (peak - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(step < warmup_steps, rising, falling)

  return schedule


def nfnet_sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: jax.typing.ArrayLike = 0.9,
  weight_decay: jax.typing.ArrayLike = 2e-5,
  clipping: jax.typing.ArrayLike | None = 0.01,
  eps: jax.typing.ArrayLike = 1e-3,
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
  unit_rule: UnitRule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """SGD as in [NFNet]: clip (not the classifier), decay (not gains and biases), Nesterov momentum.

      schedule = nfnets.optim.warmup_cosine(peak=0.4, warmup_steps=500, total_steps=10_000)
      optimizer = nfnets.optim.nfnet_sgd(schedule, clipping=0.02)

  With gradient g of parameter w: `g = AGC(g) + weight_decay * w`; `m = momentum * m + g`;
  `w = w - learning_rate * (g + momentum * m)`. The groups are found in the parameter tree, see
  `nfnets.optim.assign`. Every number may be traced, as by optax.inject_hyperparams, and `update`
  accepts extra arguments, which other parts of a chain may need.

  Args:
    learning_rate: a number, or a schedule of the number of updates made.
    momentum: Nesterov momentum, in [0, 1).
    weight_decay: at least 0.
    clipping: ratio of adaptive gradient clipping; None switches it off, and then the classifier
      need not be found.
    eps: smallest weight norm of adaptive gradient clipping.
    classifier: module path of the classifier; None finds it, '' states that there is none.
    names: groups of parameter names that this library does not know.
    unit_rule: what counts as a unit of adaptive gradient clipping, see `adaptive_grad_clip`.

  Returns:
    One transformation for Haiku parameter trees; `update(grads, state, params)` needs params.

  Raises:
    ValueError: if a number is out of range; from `init` and `update` what `assign` raises.
  """
  if not hyperparameters.passes(momentum, lambda x: 0 <= x < 1):
    raise ValueError(f'momentum must be at least 0 and below 1, got {momentum!r}.')
  _check_rates(learning_rate, weight_decay)
  return agc.chain(
    *_clipping(clipping, eps, classifier, names, unit_rule),
    _weight_decay(weight_decay, names),
    optax.trace(decay=momentum, nesterov=True),
    optax.scale_by_learning_rate(learning_rate),
  )


def nfnet_adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  b1: jax.typing.ArrayLike = 0.9,
  b2: jax.typing.ArrayLike = 0.999,
  adam_eps: jax.typing.ArrayLike = 1e-8,
  weight_decay: jax.typing.ArrayLike = 1e-2,
  clipping: jax.typing.ArrayLike | None = 0.01,
  eps: jax.typing.ArrayLike = 1e-3,
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
  unit_rule: UnitRule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """AdamW with adaptive gradient clipping before it, and the groups of `nfnet_sgd`.

  With gradient g of parameter w: `g = AGC(g)`; Adam's m and v of g; `w = w - learning_rate *
  (m / (sqrt(v) + adam_eps) + weight_decay * w)`, m and v corrected for their start at 0. The weight
  decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101), so useful values are far larger
  than those of `nfnet_sgd`.

  Args:
    learning_rate: a number, or a schedule of the number of updates made; about 1e-3.
    b1: decay of the gradients' average, in [0, 1).
    b2: decay of the squared gradients' average, in [0, 1).
    adam_eps: positive.
    weight_decay: at least 0.
    clipping: as in `nfnet_sgd`.
    eps: as in `nfnet_sgd`.
    classifier: as in `nfnet_sgd`.
    names: as in `nfnet_sgd`.
    unit_rule: as in `nfnet_sgd`.

  Returns:
    One transformation for Haiku parameter trees; `update(grads, state, params)` needs params.

  Raises:
    ValueError: if a number is out of range; from `init` and `update` what `assign` raises.
  """
  for name, value in (('b1', b1), ('b2', b2)):
    if not hyperparameters.passes(value, lambda x: 0 <= x < 1):
      raise ValueError(f'{name} must be at least 0 and below 1, got {value!r}.')
  if not hyperparameters.passes(adam_eps, lambda x: 0 < x < math.inf):
    raise ValueError(f'adam_eps must be positive, got {adam_eps!r}.')
  _check_rates(learning_rate, weight_decay)
  return agc.chain(
    *_clipping(clipping, eps, classifier, names, unit_rule),
    optax.scale_by_adam(b1=b1, b2=b2, eps=adam_eps),
    _weight_decay(weight_decay, names),
    optax.scale_by_learning_rate(learning_rate),
  )


def _check_rates(learning_rate: optax.ScalarOrSchedule, weight_decay: jax.typing.ArrayLike) -> None:
  def passes(value):
    return hyperparameters.passes(value, lambda x: 0 <= x < math.inf)

  if not passes(weight_decay):
    raise ValueError(f'weight_decay must be at least 0, got {weight_decay!r}.')
  if not callable(learning_rate) and not passes(learning_rate):
    raise ValueError(f'learning_rate must be at least 0 or a schedule, got {learning_rate!r}.')


def _weight_decay(
  weight_decay: jax.typing.ArrayLike, names: Mapping[str, str] | None
) -> optax.GradientTransformationExtraArgs:
  mask = functools.partial(groups.decay_mask, names=names)
  return trees.masked(optax.add_decayed_weights(weight_decay), mask)


def _clipping(
  clipping: jax.typing.ArrayLike | None,
  eps: jax.typing.ArrayLike,
  classifier: str | None,
  names: Mapping[str, str] | None,
  unit_rule: UnitRule | None,
) -> list[optax.GradientTransformation]:
  """The first part of a chain; none without clipping."""
  if clipping is None:
    return []
  mask = functools.partial(groups.clip_mask, classifier=classifier, names=names)
  return [agc.adaptive_grad_clip(clipping, eps, mask, unit_rule)]
