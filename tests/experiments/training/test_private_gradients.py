"""The mechanism of private training against an independent one in numpy, and on 1 and 4 devices."""

import functools
import hashlib
import os
import pathlib
import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfnets
from experiments.data import Batch, PoissonSampling
from experiments.training import private_gradients, secret, steps
from experiments.training.checkpoints import Checkpointer
from experiments.training.gradients import PrivateSettings
from experiments.training.privacy_budget import Budget
from nfnets import execution, optim

FEATURES, CLASSES, SLOTS, VIEWS, CLIPPING = 5, 3, 8, 2, 0.7
SECRET = {'noise': [1, 2], 'dropout': [7, 8], 'sampling': [3, 4, 5, 6]}


def linear_network():
  """Softmax regression on the pixels."""

  def apply(params, state, key, images, is_training):
    flat = images.reshape(len(images), -1)
    return {'logits': flat @ params['net/~/linear']['w'] + params['net/~/linear']['b']}, state

  return hk.TransformedWithState(lambda *_: None, apply)


def settings_of(network_settings=None, **private):
  private = {'clipping_norm': CLIPPING, 'noise_multiplier': 0.0, 'batch_size': 1, **private}
  return steps.StepSettings(
    schedule=lambda step: 0.1,
    label_smoothing=0.0,
    private=PrivateSettings(**private),
    **(network_settings or {}),
  )


def mapped(network, settings):
  """(params, batch [D, B, ...], step) -> (gradients, metrics).

  The D devices are those of a `vmap`, and the compiler is told to be quick.
  """
  gradient = private_gradients.make_private_gradient(network, settings, 'devices')

  def run(params, batch, step):
    return gradient(params, {}, step, secret.as_arrays(SECRET), batch)

  over_devices = jax.vmap(run, (None, 0, None), axis_name='devices')

  @functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
  def first(*args):
    return jax.tree.map(lambda x: x[0], over_devices(*args))  # all are the same

  return first


def reference_sums(params, images, labels, mask):
  """Clipped sums of softmax regression, of [examples, views, ...], in float64."""
  w, b = (np.float64(params['net/~/linear'][name]) for name in ('w', 'b'))
  sums = {'w': np.zeros_like(w), 'b': np.zeros_like(b)}
  for views, label, real in zip(np.float64(images), labels, mask, strict=True):
    x = views.reshape(len(views), -1)
    logits = x @ w + b
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True) - np.eye(CLASSES)[label]  # [views, classes]
    gradient = {'w': x.T @ error / len(x), 'b': error.mean(0)}
    norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
    for name, g in gradient.items():
      sums[name] += real[0] * g * min(1, CLIPPING / norm) / CLIPPING
  return sums


def random_batch(rng, lengths=(0.1, 3)):
  """A batch of examples of very different gradients, some of its places empty at the end."""
  count = rng.integers(0, SLOTS + 1)
  scale = rng.uniform(*lengths, (SLOTS, 1, 1, 1, 1))
  images = (scale * rng.standard_normal((SLOTS, VIEWS, 1, 1, FEATURES))).astype(np.float32)
  labels = np.repeat(rng.integers(0, CLASSES, (SLOTS, 1)), VIEWS, 1).astype(np.int32)
  mask = np.repeat(np.arange(SLOTS) < count, VIEWS).reshape(SLOTS, VIEWS).astype(np.float32)
  return images, labels, mask


def as_batch(images, labels, mask):
  arrays = (images, labels, labels, np.ones_like(mask), mask)
  return Batch(*(x.reshape(1, SLOTS * VIEWS, *x.shape[2:]) for x in arrays))


def random_params(rng):
  shapes = {'w': (FEATURES, CLASSES), 'b': (CLASSES,)}
  return {'net/~/linear': {k: np.float32(rng.standard_normal(s)) for k, s in shapes.items()}}


@pytest.fixture(scope='module')
def sums():
  """(params, images, labels, mask) -> clipped sums and metrics, without noise."""
  run = mapped(linear_network(), settings_of(views=VIEWS, microbatch=2))
  return lambda params, *batch: jax.device_get(run(params, as_batch(*batch), 0))


def test_clipped_sums_of_random_batches_equal_those_of_numpy_in_float64(sums):
  rng = np.random.default_rng(0)
  counts = []
  for _ in range(50):
    params, (images, labels, mask) = random_params(rng), random_batch(rng)
    got, metrics = sums(params, images, labels, mask)
    for name, want in reference_sums(params, images, labels, mask).items():
      np.testing.assert_allclose(got['net/~/linear'][name], want, rtol=1e-6, atol=1e-6)
    counts.append(int(mask[:, 0].sum()))
    if counts[-1]:
      assert 0 <= metrics['clipped_examples'] <= 1
      assert metrics['loss'] > 0
  assert {0, SLOTS} <= set(counts)  # empty batches as well


def test_no_example_moves_the_sums_by_more_than_one(sums):
  rng = np.random.default_rng(1)
  moves = []
  for scale in (1e-3, 1, 1e3, 1e30, np.nan, np.inf):
    for _ in range(5):
      params, (images, labels, mask) = random_params(rng), random_batch(rng)
      place = rng.integers(SLOTS)
      mask[place] = 1
      images[place] *= np.float32(scale)
      with_it, _ = sums(params, images, labels, mask)
      mask[place] = 0
      without, _ = sums(params, images, labels, mask)
      difference = jax.tree.map(lambda a, b: a - b, with_it, without)
      moves.append(float(optax.global_norm(difference)))
  assert max(moves) <= 1 + 1e-6
  assert sum(abs(move - 1) < 1e-5 for move in moves) >= 10  # the bound is reached
  assert moves[-1] == moves[-6] == 0  # what is not finite does not count


def test_the_noise_of_20000_draws_has_its_variance_and_no_mean():
  multiplier = 2.5
  tree = {'a': jnp.zeros((4, 5)), 'b': jnp.zeros(3)}

  @jax.jit
  def draws(steps_):
    arrays = secret.as_arrays(SECRET)
    return jax.vmap(
      lambda step: private_gradients.add_noise(tree, secret.key(arrays, 'noise', step), multiplier)
    )(steps_)

  noise = draws(jnp.arange(20_000))
  flat = np.concatenate([np.reshape(x, (20_000, -1)) for x in jax.tree.leaves(noise)], axis=1)
  deviations = multiplier / np.sqrt(20_000)
  assert np.abs(flat.mean(0)).max() < 5 * deviations
  # Of each of 23 numbers over the draws: a standard error of 1 %.
  np.testing.assert_allclose(flat.var(), multiplier**2, rtol=0.02)
  np.testing.assert_allclose(flat.var(0), multiplier**2, rtol=0.05)
  correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
  assert np.abs(correlation).max() < 0.04  # neither within an array nor between them
  assert abs(np.mean(flat[1:] * flat[:-1])) / multiplier**2 < 0.01  # nor from step to step


def test_no_two_updates_have_the_same_noise_and_a_checkpoint_keeps_the_secret(tmp_path):
  tree = {'a': jnp.zeros(64)}
  noise = jax.jit(
    lambda words, step: private_gradients.add_noise(tree, secret.key(words, 'noise', step), 1.0)
  )

  def hashes(arrays):
    return [hashlib.sha256(noise(arrays, step)['a'].tobytes()).digest() for step in range(200)]

  fresh = secret.as_arrays(secret.new())
  assert len(set(hashes(fresh)) | set(hashes(secret.as_arrays(secret.new())))) == 400
  params = {'m': {'w': np.zeros(2, np.float32)}}
  state = steps.TrainState(np.int32(7), params, {}, (), params, {}, fresh)
  with Checkpointer(tmp_path, keep=1) as checkpointer:
    checkpointer.save(steps.replicate(state))
  with Checkpointer(tmp_path, keep=1) as checkpointer:
    restored = checkpointer.restore(like=state)
  assert hashes(restored.secret) == hashes(fresh)


def noisy_network():
  """Convolution and linear layer with dropout between, and a state of no numbers."""

  def network(images, is_training):
    x = jax.nn.relu(nfnets.WSConv2D(4, 3, stride=2)(images))
    x = hk.dropout(hk.next_rng_key(), 0.5, jnp.mean(x, (1, 2)))
    return {'logits': hk.Linear(CLASSES, name='linear')(x)}

  return hk.transform_with_state(network)


def drawn_batch(devices):
  """A batch of real draws, of 32 places for about 12 of 40 examples with two views each."""
  sampling = PoissonSampling(key=9, num_examples=40, probability=0.3, limit=30, slots=32, views=2)
  draws = sampling.draws(0, devices)
  pixels = np.random.default_rng(0).standard_normal((40, 6, 6, 3)).astype(np.float32)
  images = np.stack([pixels[d.index] * (1 + d.seed % 7) * (d.index >= 0) for d in draws])
  labels = np.array([d.index % CLASSES for d in draws], np.int32)
  mask = np.array([d.index >= 0 for d in draws], np.float32)
  arrays = (images, labels, labels, np.ones_like(mask), mask)
  return Batch(*(x.reshape(devices, -1, *x.shape[1:]) for x in arrays))


def noisy_settings(microbatch):
  private = {'views': 2, 'microbatch': microbatch, 'noise_multiplier': 0.3, 'batch_size': 12}
  return settings_of({'clipping': None}, **private)


def one_step(microbatch):
  """What the train step makes of the first parameters on the devices of this process."""
  network = noisy_network()
  optimizer = optim.nfnet_sgd(1.0, momentum=0.0, weight_decay=0.0, clipping=None)
  state = steps.init_state(network, optimizer, 0, 6)._replace(secret=secret.as_arrays(SECRET))
  first = jax.device_get(state.params)
  step = steps.make_train_step(network, optimizer, noisy_settings(microbatch))
  state, _ = step(steps.replicate(state), drawn_batch(jax.local_device_count()))
  moved = jax.tree.map(lambda old, new: old - new, first, jax.device_get(state.params))
  return first, {f'{m}/{n}': value for m, entries in moved.items() for n, value in entries.items()}


def test_the_update_is_the_same_on_1_and_4_devices_and_for_every_microbatch(tmp_path):
  flags = '--xla_force_host_platform_device_count=4'
  program = (
    'import sys, numpy; sys.path.insert(0, sys.argv[1]); import test_private_gradients as t\n'
    'import jax; assert jax.local_device_count() == 4\n'
    'numpy.savez(sys.argv[2], **t.one_step(2)[1])'
  )
  file = tmp_path / 'four.npz'
  command = [sys.executable, '-c', program, str(pathlib.Path(__file__).parent), str(file)]
  environment = {**os.environ, 'XLA_FLAGS': flags}
  four = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
  params, want = one_step(4)
  found = {}
  for devices, microbatch in ((1, 1), (1, 32), (4, 1), (2, 4)):
    run = mapped(noisy_network(), noisy_settings(microbatch))
    grads, metrics = run(params, drawn_batch(devices), 0)
    found[f'{devices} devices, microbatch {microbatch}'] = {
      f'{m}/{n}': value for m, entries in grads.items() for n, value in entries.items()
    }
    assert metrics['loss'] > 0
  _, errors = four.communicate(timeout=300)
  assert four.returncode == 0, errors
  found['4 real devices'] = dict(np.load(file))
  for how, update in found.items():
    for name, value in want.items():
      np.testing.assert_allclose(
        update[name], value, rtol=1e-5, atol=1e-6, err_msg=f'{name} with {how}'
      )


def test_a_resumed_run_makes_the_updates_that_the_unbroken_one_made(tmp_path):
  network, devices = linear_network(), jax.local_device_count()
  params = random_params(np.random.default_rng(0))
  optimizer = optim.nfnet_sgd(0.1, momentum=0.0, weight_decay=0.0, clipping=None)
  settings = settings_of({'clipping': None}, microbatch=2, noise_multiplier=1.0, batch_size=6)
  budget = Budget(
    epsilon=8.0, delta=1e-3, num_examples=12, batch_size=6, noise_multiplier=1.0, clipping_norm=1.0,
    steps=6, planned_steps=6, limit=12,
  )  # fmt: skip
  pixels = np.random.default_rng(1).standard_normal((12, 1, 1, FEATURES)).astype(np.float32)
  step = steps.make_train_step(network, optimizer, settings)

  def go_on(state, last):
    sampling = secret.sampling(state.secret, budget, settings.private, devices)
    while int(state.step) < last:
      draws = sampling.draws(int(state.step), devices)
      labels = np.array([d.index % CLASSES for d in draws], np.int32)
      ones = np.ones(len(draws), np.float32)
      mask = np.array([d.index >= 0 for d in draws], np.float32)
      arrays = (pixels[[d.index for d in draws]], labels, labels, ones, mask)
      batch = Batch(*(x.reshape(devices, -1, *x.shape[1:]) for x in arrays))
      state, _ = step(state, batch)
    return state

  fresh = secret.as_arrays(secret.new())
  first = steps.TrainState(
    np.int32(0), params, {}, optimizer.init(params), jax.tree.map(np.copy, params), {}, fresh
  )
  with Checkpointer(tmp_path, keep=1) as checkpointer:
    state = go_on(steps.replicate(first), 3)
    checkpointer.save(state)
    unbroken = jax.device_get(go_on(state, 6))
  with Checkpointer(tmp_path, keep=1) as checkpointer:
    resumed = go_on(steps.replicate(checkpointer.restore(like=first)), 6)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), unbroken)


@functools.cache
def tiny_nfnet():
  spec = nfnets.ModelSpec(
    width=(16,), depth=(1,), stride=(2,), group_width=4, stem=((3, 2, 8),), skip_gain_init=1.0
  )
  network = hk.transform_with_state(
    lambda images, is_training: nfnets.NFNet(CLASSES, spec)(images, is_training)
  )
  rng = np.random.default_rng(3)
  images = rng.standard_normal((4, 8, 8, 3)).astype(np.float32)
  params, _ = jax.jit(network.init, static_argnums=2)(jax.random.key(0), images, True)
  return network, params, images


@pytest.mark.parametrize('strategy', ['plain', 'cpu', 'tpu'])
def test_gradients_of_each_example_go_through_every_way_to_compute_a_network(strategy):
  network, params, images = tiny_nfnet()
  labels = np.array([0, 1, 2, 0], np.int32)
  settings = settings_of(microbatch=4, clipping_norm=0.05)
  ones = np.ones(4, np.float32)
  batch = Batch(*(x[None] for x in (images, labels, labels, ones, ones)))
  with execution.strategy(strategy, space_to_depth='on' if strategy == 'tpu' else 'off'):
    got, metrics = jax.device_get(mapped(network, settings)(params, batch, 0))

  @jax.jit
  def one(image, label):
    def loss(params):
      with execution.strategy('plain'):
        logits = network.apply(params, {}, None, image[None], True)[0]['logits'][0]
      return -jax.nn.log_softmax(logits)[label]

    return jax.grad(loss)(params)

  want = jax.tree.map(np.zeros_like, params)
  for image, label in zip(images, labels, strict=True):
    gradient = jax.device_get(one(image, label))
    norm = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in jax.tree.leaves(gradient)))
    want = jax.tree.map(lambda s, g, n=norm: s + g * min(1 / n, 1 / 0.05), want, gradient)
  assert metrics['clipped_examples'] == 1
  for path, value in jax.tree_util.tree_leaves_with_path(got):
    module, name = (key.key for key in path)
    np.testing.assert_allclose(value, want[module][name], rtol=1e-4, atol=1e-5, err_msg=str(path))


def test_frozen_parameters_get_no_noise_and_half_precision_is_clipped_in_float32():
  network = noisy_network()
  batch = drawn_batch(1)
  params, _ = network.init(jax.random.key(0), batch.images[0], True)
  settings = settings_of(
    {'frozen': ('ws_conv2_d',), 'compute_dtype': 'bfloat16'}, views=2, noise_multiplier=1.0
  )
  got, _ = mapped(network, settings)(params, batch, 0)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(got))
  assert not any(np.any(x) for x in jax.tree.leaves(got['ws_conv2_d']))
  assert all(np.any(x) for x in jax.tree.leaves(got['linear']))
