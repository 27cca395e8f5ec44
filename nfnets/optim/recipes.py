"""The published optimiser and learning-rate schedule, composed from optax's parts."""

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
  if not 0 <= weight_decay < math.inf:
    raise ValueError(f'weight_decay must be at least 0, got {weight_decay!r}.')
  if not callable(learning_rate) and not 0 <= learning_rate < math.inf:
    raise ValueError(f'learning_rate must be at least 0 or a schedule, got {learning_rate!r}.')

  steps = [
    optax.add_decayed_weights(weight_decay, mask=lambda tree: groups.decay_mask(tree, names)),
    optax.trace(decay=momentum, nesterov=True),
    optax.scale_by_learning_rate(learning_rate),
  ]
  if clipping is not None:
    clip = agc.adaptive_grad_clip(clipping, eps)
    steps.insert(0, optax.masked(clip, lambda tree: groups.clip_mask(tree, classifier, names)))
  return optax.chain(*steps)
