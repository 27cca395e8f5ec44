"""The train state, and one step of training, evaluation, prediction. The only home of `pmap`.

Arrays of the state have their natural shapes and are replicated over the devices (`in_axes=None`);
arrays of a batch carry a leading device axis.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.training import step_metrics, update_sharding
from experiments.training.gradients import (
  StepSettings,
  cross_entropy,
  in_top,
  make_ascent,
  make_gradient,
)
from experiments.training.private_gradients import make_private_gradient
from experiments.training.update_sharding import AXIS, UpdateSharding
from nfnets import optim, sides
from nfnets.sides import Sides

# Where a finished step waits for the next: CPU devices share a few threads, and collectives of
# several steps in flight there can starve one another for ever.
_STEPS_IN_FLIGHT = {'cpu': 0}
_DEFAULT_STEPS_IN_FLIGHT = 2
_MOVES = np.float32(0)  # nothing before the step broke


class TrainState(NamedTuple):
  """Everything that training carries from step to step. All float arrays are float32."""

  step: jax.Array  # int32 scalar, updates made
  params: Any
  network_state: Any  # running statistics of baselines with batch normalisation; else empty
  opt_state: Any
  ema_params: Any
  ema_network_state: Any
  secret: Any = ()  # of a private run, from which its noise and its draws follow; else empty


def init_network(
  network: hk.TransformedWithState, seed: int, image_size: Sides, channels: int = 3
) -> tuple[Any, Any]:
  """Returns fresh (parameters, state), for images [N, *image_size, channels]."""

  def init(key):
    images = jnp.zeros((1, *sides.pair(image_size), channels), jnp.float32)
    return network.init(key, images, is_training=True)

  return jax.jit(init)(jax.random.key(seed))


def init_state(
  network: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  seed: int,
  image_size: Sides,
  channels: int = 3,
) -> TrainState:
  """Returns the state before the first step, whole, for images [N, *image_size, channels]."""
  return begin(optimizer, *init_network(network, seed, image_size, channels))


def plan_sharding(
  network: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  image_size: Sides,
  num_shares: int,
  secret: Any = (),
  channels: int = 3,
) -> UpdateSharding:
  """Decides which arrays of the state each device owns; see `update_sharding.plan`."""
  init = functools.partial(init_network, network, 0, image_size, channels)
  start = functools.partial(begin, optimizer, secret=secret)
  return update_sharding.plan(start, *jax.eval_shape(init), num_shares=num_shares)


def begin(
  optimizer: optax.GradientTransformation, params: Any, network_state: Any, secret: Any = ()
) -> TrainState:
  """Returns the whole state before the first step from these weights; `secret`: if private."""

  @jax.jit
  def make(params, network_state, secret):
    # The averages start as copies: donated buffers must not appear twice in the state.
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      network_state=network_state,
      opt_state=optimizer.init(params),
      ema_params=jax.tree.map(jnp.copy, params),
      ema_network_state=jax.tree.map(jnp.copy, network_state),
      secret=secret,
    )

  return make(params, network_state, secret)


def with_weights(state: TrainState, params: Any, network_state: Any) -> TrainState:
  """Returns a state that starts from other weights; the averages start as copies of them."""
  return state._replace(
    params=params,
    network_state=network_state,
    ema_params=jax.tree.map(jnp.copy, params),
    ema_network_state=jax.tree.map(jnp.copy, network_state),
  )


def replicate(state: Any) -> Any:
  """Places a tree of arrays on every local device, as the steps expect it."""
  mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
  return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def make_train_step(
  network: hk.TransformedWithState,
  optimizer: optax.GradientTransformation,
  settings: StepSettings,
  devices: Sequence[jax.Device] | None = None,
  sharding: UpdateSharding = update_sharding.REPLICATED,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
  """Returns the step of all devices: (state, batch [D, B, ...]) -> (state, metrics).

  Devices: None is all of this machine's; those of a described topology can be compiled for.

  A third argument, a float32 scalar, leaves the state as it was unless it is 0: given 'nonfinite'
  of the step before, nothing moves any more once a step broke, however many are in flight, and the
  host need not wait to know.

  The state is donated. Metrics are float32 scalars averaged over the whole batch: those of
  `gradients.make_gradient` (of a private run, those of `private_gradients`), 'learning_rate',
  'gradient_norm', 'nonfinite' (1 if the step was left out), 'weight_norm/<parameter group>' and,
  with clipping, `step_metrics.clipped_shares`.
  """
  gradient = _make_mean_gradient(network, settings, sharding)

  def step(state: TrainState, batch: Batch, halted: jax.Array):
    grads, metrics, network_state = gradient(state, batch)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params, ema_network_state = optim.ema.update(
      (state.ema_params, state.ema_network_state),
      (params, network_state),
      state.step,
      settings.ema_decay,
    )
    if settings.frozen:  # x + 0 is x but for the sign of a zero; frozen means every bit
      still = optim.frozen_mask(params, settings.frozen)
      params, ema_params = (
        jax.tree.map(lambda f, old, new: old if f else new, still, old_tree, new_tree)
        for old_tree, new_tree in ((state.params, params), (state.ema_params, ema_params))
      )
    new_state = TrainState(
      state.step + 1, params, network_state, opt_state, ema_params, ema_network_state, state.secret
    )

    metrics['learning_rate'] = settings.schedule(state.step)
    metrics['gradient_norm'] = step_metrics.global_norm(grads, sharding)
    if settings.clipping is not None:
      metrics |= step_metrics.clipped_shares(grads, state.params, settings, sharding)
    # Before the update, where the clipping reads the weights anyway: another pass would cost time.
    metrics |= step_metrics.weight_norms(state.params, sharding)
    # A step that broke leaves everything but the counters as it was: it can be inspected, or
    # skipped. The selection joins the loops that compute the update: no time on a TPU, and 3 % of
    # F0's step on a CPU, which copies what it reads and donates.
    finite = jnp.isfinite(metrics['gradient_norm'])
    if settings.private is None:  # whose noisy gradient alone may decide anything
      finite &= jnp.isfinite(metrics['loss'])
    moves = finite & (halted == 0)
    metrics['nonfinite'] = 1.0 - moves.astype(jnp.float32)
    return tuple(jax.tree.leaves(_select(moves, new_state, state))), metrics

  mapped = jax.pmap(
    step,
    AXIS,
    in_axes=(sharding.axes, 0, None),
    out_axes=(sharding.flat_axes, None),
    donate_argnums=0,
    devices=devices,
  )
  return TrainStep(mapped)


def _make_mean_gradient(
  network: hk.TransformedWithState, settings: StepSettings, sharding: UpdateSharding
) -> Callable[[TrainState, Batch], tuple[Any, dict[str, jax.Array], Any]]:
  """(state, batch [B, ...]) -> (gradients, metrics, network_state), of all devices.

  Of the gradients a device has what it owns.
  """
  # SAM climbs from the parameters as they are; else half of them is sent around in half precision.
  gathered_dtype = None if settings.sam_rho else jnp.dtype(settings.compute_dtype)
  if settings.private is not None:
    private = make_private_gradient(network, settings, AXIS)

    def private_gradient(state: TrainState, batch: Batch):
      params = sharding.gather(state.params, gathered_dtype)
      of_state = (params, state.network_state, state.step, state.secret)
      grads, metrics = private(*of_state, batch)
      return sharding.take(grads), metrics, state.network_state

    return private_gradient
  gradient = make_gradient(network, settings)

  def mean_gradient(state: TrainState, batch: Batch):
    key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
    key = jax.random.fold_in(key, lax.axis_index(AXIS))
    params = sharding.gather(state.params, gathered_dtype)
    grads, (metrics, network_state) = gradient(params, state.network_state, key, batch)
    return sharding.mean(grads), lax.pmean(metrics, AXIS), _mean_state(network_state)

  return mean_gradient


class TrainStep:
  """What `make_train_step` returns."""

  def __init__(self, mapped: Any):
    """Takes the mapped function of three arguments, which returns the leaves of a state."""
    self._mapped = mapped

  def __call__(
    self, state: TrainState, batch: Batch, halted: Any = _MOVES
  ) -> tuple[TrainState, dict[str, jax.Array]]:
    """Makes a step."""
    structure = jax.tree.structure(state)
    leaves, metrics = self._mapped(state, batch, halted)
    return jax.tree.unflatten(structure, leaves), metrics

  def lower(self, state: Any, batch: Any, halted: Any = _MOVES) -> Any:
    """Lowers it, as functions of `jax.jit` do."""
    return self._mapped.lower(state, batch, halted)


def make_gather(sharding: UpdateSharding) -> Callable[[Any], Any]:
  """Returns a function of parameters, or averages of them, to the same, whole on every device."""
  if sharding.is_whole:
    return lambda params: params
  return jax.pmap(sharding.gather, AXIS, in_axes=(sharding.axes.params,), out_axes=None)


def make_eval_step(
  network: hk.TransformedWithState, layout: ImageLayout = NATURAL_LAYOUT
) -> Callable[[Any, Any, Batch], dict[str, jax.Array]]:
  """Returns (params, network_state, batch [D, B, ...]) -> sums over the real examples.

  The sums, float32 scalars over all devices: 'count', 'loss' (unsmoothed), 'top1', 'top5'.
  Everything is computed in float32, from images in `layout`.
  """

  def step(params, network_state, batch: Batch):
    images = layout.for_network(batch.images, jnp.float32)
    out, _ = network.apply(params, network_state, None, images, is_training=False)
    logits = out['logits'].astype(jnp.float32)
    losses = cross_entropy(logits, batch.labels, batch.mix_labels, batch.mix_ratio, 0.0)
    per_example = {
      'count': jnp.ones_like(losses),
      'loss': losses,
      'top1': in_top(logits, batch.labels, 1),
      'top5': in_top(logits, batch.labels, 5),
    }
    # Selected, not multiplied: 0 * NaN is NaN.
    real = batch.mask > 0
    sums = {name: jnp.sum(jnp.where(real, value, 0)) for name, value in per_example.items()}
    return lax.psum(sums, AXIS)

  return jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=None)


def make_predict_step(
  network: hk.TransformedWithState, layout: ImageLayout = NATURAL_LAYOUT
) -> Callable[[Any, Any, Batch], dict[str, jax.Array]]:
  """Returns (params, network_state, batch [D, B, ...]) -> what the network makes of each example.

  'probabilities' [D, B, K], and 'pool' [D, B, C], what the classifier sees: float32, each device's
  on that device. The images are in `layout`.
  """

  def step(params, network_state, batch: Batch):
    images = layout.for_network(batch.images, jnp.float32)
    out, _ = network.apply(params, network_state, None, images, is_training=False)
    logits = out['logits'].astype(jnp.float32)
    return {'probabilities': jax.nn.softmax(logits), 'pool': out['pool'].astype(jnp.float32)}

  return jax.pmap(step, AXIS, in_axes=(None, None, 0), out_axes=0)


def ascent_seconds(
  network: hk.TransformedWithState,
  settings: StepSettings,
  params: Any,
  network_state: Any,
  batch: Batch,
) -> float:
  """Times the half of a step that SAM adds, alone: the best of three, in seconds."""

  def ascent(params, network_state, batch: Batch):
    climb = make_ascent(network, settings)
    perturbed, _ = climb(params, network_state, jax.random.key(0), batch)
    return jax.tree.map(jnp.sum, perturbed)[min(perturbed)]  # little to bring back

  run = jax.pmap(ascent, AXIS, in_axes=(None, None, 0))
  seconds = []
  for _ in range(4):  # the first one compiles
    began = time.perf_counter()
    jax.block_until_ready(run(params, network_state, batch))
    seconds.append(time.perf_counter() - began)
  return min(seconds[1:])


class InFlight:
  """Results of steps that may still be being computed, oldest first."""

  def __init__(self, collect: Callable[..., None] = lambda *_: None):
    """Starts with none; each is given to `collect`, in order, once it is there."""
    self._collect = collect
    self._items: list[tuple[Any, ...]] = []

  def add(self, *item: Any) -> None:
    """Takes what `collect` is to get; waits while more are there than does the backend no harm."""
    self._items.append(item)
    self._wait(_STEPS_IN_FLIGHT.get(jax.default_backend(), _DEFAULT_STEPS_IN_FLIGHT))

  def drain(self) -> None:
    """Waits for all."""
    self._wait(0)

  def _wait(self, allowed: int) -> None:
    while len(self._items) > allowed:
      self._collect(*jax.block_until_ready(self._items.pop(0)))


def _mean_state(network_state: Any) -> Any:
  """Averages the devices' statistics; their counters, integers, are equal and stay integers."""
  return jax.tree.map(
    lambda x: lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.floating) else lax.pmax(x, AXIS),
    network_state,
  )


def _select(condition: jax.Array, new: TrainState, old: TrainState) -> TrainState:
  """The new state if the condition holds, else the old with the numbers of updates of the new.

  Those are the step and the optimiser's integers, which the schedule follows. The integers of the
  network's state count what its averages have seen, so that they stay as well.
  """

  def choose(n: jax.Array, o: jax.Array) -> jax.Array:
    return jnp.where(condition, n, o)

  chosen = jax.tree.map(choose, new, old)
  opt_state = jax.tree.map(
    lambda n, c: c if jnp.issubdtype(n.dtype, jnp.floating) else n, new.opt_state, chosen.opt_state
  )
  return chosen._replace(step=new.step, opt_state=opt_state)
