"""The real train step against the published implementation's six steps, on 1 and on 4 devices."""

import json
import os
import subprocess
import sys

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from experiments.data import Batch
from experiments.training import steps
from nfnets import execution


def network_of(config):
  spec = nfnets.ModelSpec(
    width=config['width'],
    depth=config['depth'],
    group_width=config['gw'],
    drop_rate=0.0,
    stochdepth_rate=0.0,
  )
  return hk.transform_with_state(
    lambda images, is_training: nfnets.NFNet(config['cls'], spec)(images, is_training)
  )


def split_over_devices(images, labels, mix_labels, ratio):
  devices = jax.local_device_count()
  arrays = (images, labels, mix_labels, ratio, np.ones_like(ratio))
  return Batch(*(x.reshape(devices, -1, *x.shape[1:]) for x in arrays))


@pytest.fixture(scope='module')
def run(golden, recipe):
  """Runs the golden trajectory: settings' overrides -> states after each step, metrics."""
  data = golden('train')
  config = json.loads(str(data['config']))
  network = network_of(config)
  schedule = nfnets.optim.warmup_cosine(
    peak=config['lr'], warmup_steps=config['warm'], total_steps=config['total']
  )
  optimizer = nfnets.optim.nfnet_sgd(schedule, weight_decay=config['wd'])
  initial = jax.eval_shape(lambda: steps.init_state(network, optimizer, 0, config['size']))
  params = recipe.params({m: {n: a.shape for n, a in p.items()} for m, p in initial.params.items()})

  def trajectory(num_steps=config['steps'], **overrides):
    settings = steps.StepSettings(
      schedule=schedule,
      label_smoothing=config['ls'],
      ema_decay=config['decay'],
      **overrides,
    )
    train_step = steps.make_train_step(network, optimizer, settings)
    state = steps.TrainState(
      step=np.int32(0),
      params=params,
      network_state={},
      opt_state=optimizer.init(params),
      ema_params=params,
      ema_network_state={},
    )
    state = steps.replicate(jax.tree.map(jnp.array, state))
    history = []
    for i in range(num_steps):
      batch = split_over_devices(
        *(data[name][i] for name in ('xs', 'labels', 'mix_labels', 'ratio'))
      )
      state, metrics = train_step(state, batch)
      history.append(jax.device_get(metrics))
    return jax.device_get(state), history

  return trajectory


@pytest.mark.parametrize(
  ('packing', 'filtering'),
  [
    ('off', 'off'),
    ('on', 'off'),
    pytest.param('off', 'on', marks=pytest.mark.slow),  # a minute, most of it to compile
  ],
)
def test_trajectory_equals_the_published_one(run, golden, packing, filtering):
  data = golden('train')
  with execution.strategy(space_to_depth=packing):
    state, history = run(minimal_filtering=filtering)
  np.testing.assert_allclose([m['loss'] for m in history], data['losses'], rtol=1e-5)
  np.testing.assert_allclose([m['learning_rate'] for m in history], data['lrs'], atol=1e-8)
  assert state.step == 6
  norms = json.loads(str(data['grad0_norms']))
  total = np.sqrt(sum(norm**2 for norm in norms.values()))
  np.testing.assert_allclose(history[0]['gradient_norm'], total, rtol=1e-5)
  for kind, tree in (('params', state.params), ('ema', state.ema_params)):
    for module, entries in tree.items():
      for name, value in entries.items():
        want = data[f'{kind}:{module}/{name}']
        np.testing.assert_allclose(
          value, want, rtol=0, atol=1e-5, err_msg=f'{kind} {module}/{name}'
        )


@pytest.mark.parametrize('strategy', [{}, {'convolutions': 'tpu', 'space_to_depth': 'on'}])
def test_a_step_promotes_no_rank_and_makes_no_nan(strategy):
  spec = nfnets.ModelSpec(width=(8,), depth=(2,), stride=(1,), group_width=4, stem=((3, 2, 6),))
  network = hk.transform_with_state(lambda *args, **kwargs: nfnets.NFNet(5, spec)(*args, **kwargs))
  schedule = nfnets.optim.warmup_cosine(peak=0.1, warmup_steps=1, total_steps=4)
  optimizer = nfnets.optim.nfnet_sgd(schedule)
  settings = steps.StepSettings(schedule=schedule, sam_rho=0.05)
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
  labels = np.arange(2, dtype=np.int32)
  with (
    jax.numpy_rank_promotion('raise'),
    jax.debug_nans(True),
    execution.strategy(**strategy),
  ):
    state = steps.replicate(steps.init_state(network, optimizer, 0, 16))
    train_step = steps.make_train_step(network, optimizer, settings)
    batch = split_over_devices(images, labels, labels, np.ones(2, np.float32))
    state, metrics = train_step(state, batch)
    sums = steps.make_eval_step(network)(state.params, state.network_state, batch)
  assert np.isfinite(metrics['loss'])
  assert sums['count'] == 2


def test_trajectory_on_four_devices():
  if jax.local_device_count() == 4:
    pytest.skip('this is the run with four devices')
  flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
  chosen = 'equals_the_published_one and off-off'
  command = [sys.executable, '-m', 'pytest', '-q', __file__, '-k', chosen]
  environment = {**os.environ, 'XLA_FLAGS': flags, 'PYTEST_ADDOPTS': ''}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stdout + done.stderr
  assert '1 passed' in done.stdout


def test_two_accumulated_halves_equal_the_whole_batch(run):
  whole, whole_metrics = run(num_steps=3)
  halves, halves_metrics = run(num_steps=3, accumulation_steps=2)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(halves), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-6)
  for a, b in zip(whole_metrics, halves_metrics, strict=True):
    np.testing.assert_allclose(b['loss'], a['loss'], rtol=1e-5)
    assert b['top1'] == a['top1']


def test_bfloat16_computes_in_half_precision_and_keeps_float32_parameters(run):
  _, exact_metrics = run(num_steps=2)
  state, metrics = run(num_steps=2, compute_dtype='bfloat16')
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype('float32')}
  difference = abs(metrics[1]['loss'] - exact_metrics[1]['loss'])
  assert 0 < difference < 0.02 * exact_metrics[1]['loss']


def test_clipped_share_equals_a_count_from_the_published_gradient_norms(run, golden, recipe):
  # A gain, bias or skip gain is one unit, so its published gradient norm decides.
  norms = json.loads(str(golden('train')['grad0_norms']))
  clipping = 0.02
  clipped = []
  for path, norm in norms.items():
    module, name = path.rsplit('/', 1)
    if name != 'w':
      shape = golden('train')[f'params:{path}'].shape
      limit = clipping * max(np.linalg.norm(recipe.value(module, name, shape)), 1e-3)
      clipped.append(norm > limit)
  assert 0.1 < np.mean(clipped) < 0.9
  _, history = run(num_steps=1, clipping=clipping)
  np.testing.assert_allclose(history[0]['clipped_share/gains_and_biases'], np.mean(clipped))


def test_without_clipping_there_is_no_clipped_share(run):
  _, history = run(num_steps=1, clipping=None)
  assert not any(name.startswith('clipped_share') for name in history[0])


def test_cross_entropy_by_hand():
  logits = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]], np.float32)
  labels, mix_labels, ratio = np.array([1, 0]), np.array([2, 0]), np.array([0.75, 1.0], np.float32)
  smoothing = 0.1
  targets = np.array([[0, 0.75, 0.25], [1.0, 0, 0]]) * 0.9 + 0.1 / 3
  log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  expected = -(targets * log_softmax).sum(-1)
  got = steps.cross_entropy(logits, labels, mix_labels, ratio, smoothing)
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def fake_network(logits):
  """A network without parameters whose logits are given."""
  return hk.transform_with_state(lambda images, is_training: {'logits': jnp.asarray(logits)})


def test_evaluation_sums_only_real_examples_and_ranks_ties_as_a_sort_does():
  if jax.local_device_count() != 1:
    pytest.skip('the logits of this test are those of one device')
  logits = np.array(
    [
      [5, 4, 3, 2, 1, 0, -1],  # right
      [5, 4, 3, 2, 1, 0, -1],  # label of rank 4: in the top 5
      [5, 4, 3, 2, 1, 0, -1],  # label of rank 5: not
      [1, 1, 1, 1, 1, 1, 1],  # equal logits: the first class is the prediction
      [1, 1, 1, 1, 1, 1, 1],
      [np.nan] * 7,  # never right
      [9, 0, 0, 0, 0, 0, 0],  # padding
    ],
    np.float32,
  )
  labels = np.array([[0, 4, 5, 0, 1, 0, 0]], np.int32)
  mask = np.array([[1, 1, 1, 1, 1, 1, 0]], np.float32)
  batch = Batch(np.zeros((1, 7, 2, 2, 3), np.float32), labels, labels, np.ones_like(mask), mask)
  sums = jax.device_get(steps.make_eval_step(fake_network(logits))({}, {}, batch))
  assert (sums['count'], sums['top1'], sums['top5']) == (6, 2, 4)


def test_results_in_flight_are_collected_in_order_and_none_is_left(monkeypatch):
  collected = []
  monkeypatch.setattr(steps, '_STEPS_IN_FLIGHT', {jax.default_backend(): 1})
  in_flight = steps.InFlight(lambda step, values: collected.append((step, float(values['x']))))
  for step in range(3):
    in_flight.add(step, {'x': jnp.float32(step) / 2})
    assert len(collected) == step  # one may still be computed
  in_flight.drain()
  assert collected == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_what_stands_in_padding_does_not_reach_the_sums():
  network = hk.transform_with_state(
    lambda images, is_training: {'logits': images.reshape(len(images), -1)[:, :3]}
  )
  images = np.zeros((1, 4, 1, 1, 3), np.float32)
  images[0, :, 0, 0] = [[0, 9, 0], [9, 0, 0], [np.nan] * 3, [np.inf, 0, 0]]
  labels = np.array([[1, 1, 0, 0]], np.int32)
  mask = np.array([[1, 1, 0, 0]], np.float32)
  batch = Batch(images, labels, labels, np.ones_like(mask), mask)
  sums = jax.device_get(steps.make_eval_step(network)({}, {}, batch))
  assert (sums['count'], sums['top1'], sums['top5']) == (2, 1, 2)
  np.testing.assert_allclose(sums['loss'], 9 + 2 * np.log1p(2 * np.exp(-9.0)), rtol=1e-6)
