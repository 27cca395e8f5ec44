"""The train state, the loss, and one train and one evaluation step. The only home of `pmap`.

Arrays of the state have their natural shapes and are replicated over the devices (`in_axes=None`);
arrays of a batch carry a leading device axis.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from jax import lax

from experiments.batch import Batch
from nfnets import optim

AXIS = 'devices'

# Where a finished step waits for the next: CPU devices share a few threads, and collectives of
# several steps in flight there can starve one another for ever.
_STEPS_IN_FLIGHT = {'cpu': 0}
_DEFAULT_STEPS_IN_FLIGHT = 2


class TrainState(NamedTuple):
  """Everything that training carries from step to step. All float arrays are float32."""

  step: jax.Array  # int32 scalar, updates made
  params: Any
  network_state: Any  # running statistics of baselines with batch normalisation; else empty
  opt_state: Any
  ema_params: Any
  ema_network_state: Any


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


def init_state(
  network: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  seed: int,
  image_size: int,
) -> TrainState:
  """Returns the state before the first step, for images [N, image_size, image_size, 3]."""

  def init(key):
    images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    params, network_state = network.init(key, images, is_training=True)
    # The averages start as copies: donated buffers must not appear twice in the state.
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      network_state=network_state,
      opt_state=optimizer.init(params),
      ema_params=jax.tree.map(jnp.copy, params),
      ema_network_state=jax.tree.map(jnp.copy, network_state),
    )

  return jax.jit(init)(jax.random.key(seed))


def replicate(state: Any) -> Any:
  """Places a tree of arrays on every local device, as the steps expect it."""
  mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
  return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


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


def make_train_step(
  network: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the step of all devices: (state, batch [D, B, ...]) -> (state, metrics).

  The state is donated. Metrics are float32 scalars averaged over the whole batch: 'loss', 'top1',
  'learning_rate', 'gradient_norm' and, with clipping, 'clipped_share/<parameter group>'.
  """
  compute_dtype = jnp.dtype(settings.compute_dtype)

  def loss_fn(params, network_state, key, batch: Batch):
    params, images = _cast((params, batch.images), compute_dtype)
    out, network_state = network.apply(params, network_state, key, images, is_training=True)
    logits = out['logits'].astype(jnp.float32)
    losses = cross_entropy(
      logits, batch.labels, batch.mix_labels, batch.mix_ratio, settings.label_smoothing
    )
    metrics = {'loss': jnp.mean(losses), 'top1': jnp.mean(_in_top(logits, batch.labels, 1))}
    return metrics['loss'], (metrics, _cast(network_state, jnp.float32))

  def step(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    key = jax.random.fold_in(key, lax.axis_index(AXIS))
    grad_fn = jax.grad(loss_fn, has_aux=True)
    grads, (metrics, network_state) = _accumulate(
      grad_fn, state.params, state.network_state, key, batch, settings.accumulation_steps
    )
    grads, metrics, network_state = lax.pmean((grads, metrics, network_state), AXIS)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params, ema_network_state = optim.ema.update(
      (state.ema_params, state.ema_network_state),
      (params, network_state),
      state.step,
      settings.ema_decay,
    )

    metrics['learning_rate'] = settings.schedule(state.step)
    metrics['gradient_norm'] = optax.global_norm(grads)
    if settings.clipping is not None:
      metrics |= _clipped_shares(grads, state.params, settings)
    state = TrainState(
      state.step + 1, params, network_state, opt_state, ema_params, ema_network_state
    )
    return state, metrics

  return jax.pmap(step, AXIS, in_axes=(None, 0), out_axes=(None, None), donate_argnums=0)


def make_eval_step(
  network: hk.TransformedWithState,
) -> Callable[[Any, Any, Batch], dict[str, jax.Array]]:
  """Returns (params, network_state, batch [D, B, ...]) -> sums over the real examples.

  The sums, float32 scalars over all devices: 'count', 'loss' (unsmoothed), 'top1', 'top5'.
  Everything is computed in float32.
  """

  def step(params, network_state, batch: Batch):
    images = batch.images.astype(jnp.float32)
    out, _ = network.apply(params, network_state, None, images, is_training=False)
    logits = out['logits'].astype(jnp.float32)
    losses = cross_entropy(logits, batch.labels, batch.mix_labels, batch.mix_ratio, 0.0)
    per_example = {
      'count': jnp.ones_like(losses),
      'loss': losses,
      'top1': _in_top(logits, batch.labels, 1),
      'top5': _in_top(logits, batch.labels, 5),
    }
    sums = {name: jnp.sum(batch.mask * value) for name, value in per_example.items()}
    return lax.psum(sums, AXIS)

  return jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None)


def wait_for(
  in_flight: list[Any],
  allowed: int | None = None,
  collect: Callable[[Any], None] = lambda item: None,
) -> None:
  """Blocks until at most `allowed` of the given results are still being computed.

  Args:
    in_flight: results of steps, oldest first; those waited for are removed.
    allowed: None is what the backend can have in flight without harm.
    collect: called with each removed result, in order.
  """
  if allowed is None:
    allowed = _STEPS_IN_FLIGHT.get(jax.default_backend(), _DEFAULT_STEPS_IN_FLIGHT)
  while len(in_flight) > allowed:
    collect(jax.block_until_ready(in_flight.pop(0)))


def _cast(tree: Any, dtype: jnp.dtype) -> Any:
  """Casts the floating-point leaves."""
  return jax.tree.map(
    lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
  )


def _in_top(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """1.0 where the label's logit [B, K] is among the k largest, by rank: no sort is needed."""
  label_logits = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  # A class of an equal logit counts before the label only with a smaller index, as in a sort. A
  # logit that is not a number is never right.
  earlier = jnp.arange(logits.shape[-1])[None] < labels[:, None]
  ahead = (logits > label_logits) | ((logits == label_logits) & earlier)
  rank = jnp.sum(ahead, axis=-1)
  return ((rank < k) & jnp.isfinite(label_logits[:, 0])).astype(jnp.float32)


def _accumulate(grad_fn, params, network_state, key, batch: Batch, num_slices: int):
  """Averages gradients and metrics over `num_slices` equal slices of a device's batch [B, ...]."""
  if num_slices == 1:
    return grad_fn(params, network_state, key, batch)
  slices = jax.tree.map(lambda x: x.reshape(num_slices, -1, *x.shape[1:]), batch)

  def body(carry, xs):
    sums, network_state = carry
    index, piece = xs
    grads, (metrics, network_state) = grad_fn(
      params, network_state, jax.random.fold_in(key, index), piece
    )
    return (jax.tree.map(jnp.add, sums, (grads, metrics)), network_state), None

  shapes = jax.eval_shape(grad_fn, params, network_state, key, jax.tree.map(lambda x: x[0], slices))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[1][0]))
  (sums, network_state), _ = lax.scan(
    body, (zeros, network_state), (jnp.arange(num_slices), slices)
  )
  grads, metrics = jax.tree.map(lambda x: x / num_slices, sums)
  return grads, (metrics, network_state)


def _clipped_shares(grads: Any, params: Any, settings: StepSettings) -> dict[str, jax.Array]:
  """The share of units over the clipping limit, per parameter group that is clipped."""
  groups = optim.assign(params)
  counts = optim.clipped_share(grads, params, settings.clipping, settings.clipping_eps)
  clipped = optim.sum_by_group(counts.clipped, groups)
  units = optim.sum_by_group(counts.units, groups)
  return {
    f'clipped_share/{group}': (clipped[group] / units[group]).astype(jnp.float32)
    for group in clipped
    if group != 'classifier'
  }
