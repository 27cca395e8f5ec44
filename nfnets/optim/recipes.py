"""Optimisers and the published learning-rate schedule, composed from optax's parts."""

import functools
import math
from collections.abc import Mapping

import jax.numpy as jnp
import optax

from nfnets.optim import agc, groups


def warmup_cosine(
  *, peak: float, warmup_steps: float, total_steps: float, floor: float = 0.0
) -> optax.Schedule:
  """Linear warm-up from 0 to `peak`, then half a cosine down to `floor` at `total_steps`.

  The schedule of [NFNet] and [SigProp]: peak 0.1 per 256 images of the batch, 5 of 360 epochs of
  warm-up. Steps may be fractional, as 5 epochs rarely are a whole number of steps.

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
  if not 0 <= warmup_steps < total_steps < math.inf:
    raise ValueError(
      f'expected 0 <= warmup_steps < total_steps, got warmup_steps={warmup_steps} and '
      f'total_steps={total_steps}; shorten the warm-up or train longer.'
    )
  if not 0 <= floor <= peak < math.inf:
    raise ValueError(f'expected 0 <= floor <= peak, got floor={floor} and peak={peak}.')

  def schedule(step):
    step = jnp.asarray(step, jnp.float32)
    rising = peak * step / (warmup_steps or 1.0)  # without warm-up this is not used
    progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
    falling = floor + (peak - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(step < warmup_steps, rising, falling)

  return schedule


def nfnet_sgd(
  learning_rate: optax.ScalarOrSchedule,
  *,
  momentum: float = 0.9,
  weight_decay: float = 2e-5,
  clipping: float | None = 0.01,
  eps: float = 1e-3,
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
) -> optax.GradientTransformation:
  """SGD as in [NFNet]: clip (all but the classifier), decay (all but gains and biases), Nesterov.

  With gradient g of parameter w: `g = AGC(g) + weight_decay * w`; `m = momentum * m + g`;
  `w = w - learning_rate * (g + momentum * m)`. The groups are found in the parameter tree, see
  `nfnets.optim.assign`.

  Args:
    learning_rate: a number, or a schedule of the number of updates made.
    momentum: Nesterov momentum, in [0, 1).
    weight_decay: at least 0.
    clipping: ratio of adaptive gradient clipping; None switches it off, and then the classifier
      need not be found.
    eps: smallest weight norm of adaptive gradient clipping.
    classifier: module path of the classifier; None finds it, '' states that there is none.
    names: groups of parameter names that this library does not know.

  Returns:
    One transformation for Haiku parameter trees; `update(grads, state, params)` needs params.

  Raises:
    ValueError: if a number is out of range; from `init` and `update` what `assign` raises.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'momentum must be at least 0 and below 1, got {momentum!r}.')
  _check_rates(learning_rate, weight_decay)
  return agc.chain(
    *_clipping(clipping, eps, classifier, names),
    optax.add_decayed_weights(weight_decay, mask=lambda tree: groups.decay_mask(tree, names)),
    optax.trace(decay=momentum, nesterov=True),
    optax.scale_by_learning_rate(learning_rate),
  )


def nfnet_adamw(
  learning_rate: optax.ScalarOrSchedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  adam_eps: float = 1e-8,
  weight_decay: float = 1e-2,
  clipping: float | None = 0.01,
  eps: float = 1e-3,
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
) -> optax.GradientTransformation:
  """AdamW behind adaptive gradient clipping, with the groups of `nfnet_sgd`.

  With gradient g of parameter w: `g = AGC(g)`; Adam's m and v of g; `w = w - learning_rate *
  (m / (sqrt(v) + adam_eps) + weight_decay * w)`, both corrected for their start at 0. The weight
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

  Returns:
    One transformation for Haiku parameter trees; `update(grads, state, params)` needs params.

  Raises:
    ValueError: if a number is out of range; from `init` and `update` what `assign` raises.
  """
  for name, value in (('b1', b1), ('b2', b2)):
    if not 0 <= value < 1:
      raise ValueError(f'{name} must be at least 0 and below 1, got {value!r}.')
  if not 0 < adam_eps < math.inf:
    raise ValueError(f'adam_eps must be positive, got {adam_eps!r}.')
  _check_rates(learning_rate, weight_decay)
  return agc.chain(
    *_clipping(clipping, eps, classifier, names),
    optax.scale_by_adam(b1=b1, b2=b2, eps=adam_eps),
    optax.add_decayed_weights(weight_decay, mask=lambda tree: groups.decay_mask(tree, names)),
    optax.scale_by_learning_rate(learning_rate),
  )


def _check_rates(learning_rate: optax.ScalarOrSchedule, weight_decay: float) -> None:
  if not 0 <= weight_decay < math.inf:
    raise ValueError(f'weight_decay must be at least 0, got {weight_decay!r}.')
  if not callable(learning_rate) and not 0 <= learning_rate < math.inf:
    raise ValueError(f'learning_rate must be at least 0 or a schedule, got {learning_rate!r}.')


def _clipping(
  clipping: float | None, eps: float, classifier: str | None, names: Mapping[str, str] | None
) -> list[optax.GradientTransformation]:
  """The first part of a chain; none without clipping."""
  if clipping is None:
    return []
  mask = functools.partial(groups.clip_mask, classifier=classifier, names=names)
  return [agc.adaptive_grad_clip(clipping, eps, mask)]
