"""The loss, and one device's gradient of its share of a batch: slices, half precision, SAM."""

import dataclasses
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from nfnets import execution, optim

# (params, network_state, key, batch [B, ...]) -> (gradients, (metrics, network_state))
Gradient = Callable[[Any, Any, jax.Array, Batch], tuple[Any, tuple[dict[str, jax.Array], Any]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrivateSettings:
  """What the step of a private run needs to know, see `private_gradients`."""

  clipping_norm: float  # of the gradient of an example
  noise_multiplier: float  # standard deviation of the noise, in clipping norms
  batch_size: int  # expected, over all devices
  views: int = 1  # pictures of an example, whose gradients are averaged before clipping
  microbatch: int = 1  # examples whose gradients a device has at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
  """What a train step needs to know beside the network and the optimiser."""

  schedule: optax.Schedule  # the learning rate, for the metrics
  label_smoothing: float = 0.1
  ema_decay: float = 0.99999
  compute_dtype: str = 'float32'
  accumulation_steps: int = 1
  clipping: float | None = 0.01  # as the optimiser's, for the share of clipped units
  clipping_eps: float = 1e-3
  seed: int = 0
  sam_rho: float = 0.0  # 0: no sharpness-aware minimisation
  sam_ascent_share: float = 1.0  # of each device's examples
  frozen: tuple[str, ...] = ()  # prefixes of parameters, as in `nfnets.optim.by_layer`
  stage_depths: tuple[int, ...] | None = None  # blocks of each stage, for the clipped share
  remat: tuple[int, ...] = ()  # stages that the gradient computes again instead of keeping them
  stem_space_to_depth: str = 'auto'  # 'on' or 'off', as in `nfnets.execution.strategy`
  minimal_filtering: str = 'auto'  # the same
  layout: ImageLayout = NATURAL_LAYOUT  # of the batch's images
  private: PrivateSettings | None = None  # None: an ordinary run


def cross_entropy(
  logits: jax.Array,
  labels: jax.Array,
  mix_labels: jax.Array,
  mix_ratio: jax.Array,
  label_smoothing: float,
) -> jax.Array:
  """Softmax cross-entropy with mixed and smoothed labels, `(1 - s) * y + s / K`.

  Args:
    logits: [B, K], any float dtype.
    labels: [B] int, weighted by mix_ratio.
    mix_labels: [B] int, weighted by 1 - mix_ratio.
    mix_ratio: [B] in 0..1.
    label_smoothing: s in 0..1.

  Returns:
    [B] float32 losses.
  """
  num_classes = logits.shape[-1]
  ratio = mix_ratio[:, None]
  targets = jax.nn.one_hot(labels, num_classes) * ratio
  targets += jax.nn.one_hot(mix_labels, num_classes) * (1 - ratio)
  targets = (1 - label_smoothing) * targets + label_smoothing / num_classes
  return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def in_top(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """1.0 where the label's logit [B, K] is among the k largest, by rank: no sort is needed."""
  label_logits = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  # A class of an equal logit counts before the label only with a smaller index, as in a sort. A
  # label beside a logit that is not a number is never right.
  earlier = jnp.arange(logits.shape[-1])[None] < labels[:, None]
  ahead = (logits > label_logits) | ((logits == label_logits) & earlier)
  rank = jnp.sum(ahead, axis=-1)
  numbers = jnp.isfinite(label_logits[:, 0]) & ~jnp.any(jnp.isnan(logits), axis=-1)
  return ((rank < k) & numbers).astype(jnp.float32)


def make_gradient(network: hk.TransformedWithState, settings: StepSettings) -> Gradient:
  """Returns one device's gradient function, nothing of it averaged over the devices.

  The gradient is that of the mean loss, zero for frozen parameters. Metrics, float32 means over
  the examples: 'loss', 'top1' and, with SAM, 'ascent_loss'; 'loss' and 'top1' are then those at
  the perturbed parameters.

  With SAM (`settings.sam_rho` > 0) every device climbs along the gradient of its own examples, or
  of an evenly spread share of them; only the second gradient is for averaging. So the ascent costs
  no communication, and the sharpness is that over the examples of one device ("m-sharpness", Foret
  et al. section 4.1, where it generalises better than over the whole batch). Slices of gradient
  accumulation do not narrow it: one ascent serves all of them.
  """
  gradient = _accumulated(_make_plain_gradient(network, settings), settings)
  if not settings.sam_rho:
    return gradient
  climb = make_ascent(network, settings)

  def sam_gradient(params, network_state, key, batch: Batch):
    # The same key: the second gradient sees the dropped units and blocks of the first.
    perturbed, ascent_loss = climb(params, network_state, key, batch)
    grads, (metrics, network_state) = gradient(perturbed, network_state, key, batch)
    return grads, (metrics | {'ascent_loss': ascent_loss}, network_state)

  return sam_gradient


def make_ascent(
  network: hk.TransformedWithState, settings: StepSettings
) -> Callable[[Any, Any, jax.Array, Batch], tuple[Any, jax.Array]]:
  """Returns SAM's first half: one device's perturbed parameters and the loss before the climb."""
  gradient = _accumulated(_make_plain_gradient(network, settings), settings)

  def climb(params, network_state, key, batch: Batch):
    examples = spread_share(batch, settings.sam_ascent_share, settings.accumulation_steps)
    grads, (metrics, _) = gradient(params, network_state, key, examples)
    return optim.sam.perturb(params, grads, settings.sam_rho), metrics['loss']

  return climb


def spread_share(batch: Batch, share: float, num_slices: int = 1) -> Batch:
  """Takes a share of a device's examples [B, ...], evenly spread over the batch.

  Of even and of odd places equally many are taken, or one more of even ones, because these may be
  mixed in different ways (`mixing.kind_of`). At least one example of each of `num_slices` equal
  slices is taken.
  """
  size = len(batch.labels)
  per_slice = max(1, round(share * size / num_slices))
  count = per_slice * num_slices
  if count >= size:
    return batch
  # Of the pair of places (2n, 2n + 1) that each falls into, by turns the even and the odd one. The
  # last is below size - 1, so its pair is whole; no place is taken twice, because two turns on are
  # at least two places on.
  chosen = np.array([i * size // count // 2 * 2 + i % 2 for i in range(count)])
  return jax.tree.map(lambda x: x[chosen], batch)


def cast(tree: Any, dtype: jnp.dtype) -> Any:
  """Casts the floating-point leaves."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
  )


def _make_plain_gradient(network: hk.TransformedWithState, settings: StepSettings) -> Gradient:
  """The gradient function without slices and SAM."""
  gradient = jax.grad(make_loss(network, settings), has_aux=True)
  compute_dtype = jnp.dtype(settings.compute_dtype)
  if compute_dtype == jnp.float32:
    return gradient

  def rounded_gradient(params, *args):
    grads, aux = gradient(cast(params, compute_dtype), *args)
    # Widened when all of it is there. Else a TPU keeps twice the bytes through the backward pass:
    # 72 of 2,241 MB of F1's step, which this saves in 0.6 of 110 ms.
    return cast(lax.optimization_barrier(grads), jnp.float32), aux

  return rounded_gradient


def make_loss(
  network: hk.TransformedWithState, settings: StepSettings
) -> Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]:
  """Returns (params, network_state, key, batch [B, ...]) -> (loss, (metrics, network_state)).

  The parameters are of the compute dtype.
  """
  compute_dtype = jnp.dtype(settings.compute_dtype)
  # 'auto' leaves the choice to who called, such as a planner for another machine.
  chosen = {
    name: None if choice == 'auto' else choice
    for name, choice in (
      ('space_to_depth', settings.stem_space_to_depth),
      ('minimal_filtering', settings.minimal_filtering),
    )
  }

  def loss_fn(params, network_state, key, batch: Batch):
    if settings.frozen:
      # The compiler then leaves out what only their gradients would need.
      mask = optim.frozen_mask(params, settings.frozen)
      params = jax.tree.map(lambda p, f: lax.stop_gradient(p) if f else p, params, mask)
    images = settings.layout.for_network(batch.images, compute_dtype)
    with execution.strategy(training_step=True, rematerialize=settings.remat, **chosen):
      out, network_state = network.apply(params, network_state, key, images, is_training=True)
    logits = out['logits'].astype(jnp.float32)
    losses = cross_entropy(
      logits, batch.labels, batch.mix_labels, batch.mix_ratio, settings.label_smoothing
    )
    metrics = {'loss': jnp.mean(losses), 'top1': jnp.mean(in_top(logits, batch.labels, 1))}
    return metrics['loss'], (metrics, cast(network_state, jnp.float32))

  return loss_fn


def _accumulated(grad_fn: Gradient, settings: StepSettings) -> Gradient:
  """Averages gradients and metrics over equal slices of a device's batch [B, ...]."""
  num_slices = settings.accumulation_steps
  if num_slices == 1:
    return grad_fn

  def accumulate(params, network_state, key, batch: Batch):
    slices = jax.tree.map(lambda x: x.reshape(num_slices, -1, *x.shape[1:]), batch)

    def body(carry, xs):
      sums, network_state = carry
      index, piece = xs
      grads, (metrics, network_state) = grad_fn(
        params, network_state, jax.random.fold_in(key, index), piece
      )
      return (jax.tree.map(jnp.add, sums, (grads, metrics)), network_state), None

    first = jax.tree.map(lambda x: x[0], slices)
    shapes = jax.eval_shape(grad_fn, params, network_state, key, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
    (sums, network_state), _ = lax.scan(
      body, (zeros, network_state), (jnp.arange(num_slices), slices)
    )
    grads, metrics = jax.tree.map(lambda x: x / num_slices, sums)
    return grads, (metrics, network_state)

  return accumulate
