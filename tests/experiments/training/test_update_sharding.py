"""The update shared out among four devices against the update that each of them repeats."""

import functools
import os
import subprocess
import sys
import types

import haiku as hk
import jax
import numpy as np
import pytest

import nfnets
from experiments.data import Batch
from experiments.training import checkpoints, secret, steps, update_sharding
from experiments.training.gradients import PrivateSettings

DEVICES = 4
CLIPPING = 0.2
SECRET = {'noise': [1, 2], 'dropout': [3, 4], 'sampling': [5, 6, 7, 8]}


def small_network(images, is_training):
  """Neither its 38 channels nor its 13 classes are a multiple of 4."""
  x = nfnets.WSConv2D(32, 3, name='stem')(images)
  x = nfnets.WSConv2D(38, 3, stride=2, name='conv')(jax.nn.gelu(x))
  x = hk.Flatten()(jax.nn.gelu(x))
  if is_training:
    x = hk.dropout(hk.next_rng_key(), 0.1, x)
  return {'logits': hk.Linear(13, name='linear')(x)}


NETWORK = hk.transform_with_state(small_network)
SCHEDULE = nfnets.optim.warmup_cosine(peak=0.4, warmup_steps=2, total_steps=20)
needs_devices = pytest.mark.skipif(
  jax.local_device_count() != DEVICES, reason='runs in a process of its own'
)


@pytest.mark.parametrize('chosen', ['not slow', pytest.param('slow', marks=pytest.mark.slow)])
def test_all_that_needs_four_devices(chosen):
  if jax.local_device_count() == DEVICES:
    pytest.skip('this is the process with four devices')
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={DEVICES}'
  command = [sys.executable, '-m', 'pytest', '-q', '-x', __file__, '-m', chosen]
  command += ['-k', 'steps_equal or checkpoint_is_whole or has_its_share or gathered']
  environment = {**os.environ, 'XLA_FLAGS': flags, 'PYTEST_ADDOPTS': ''}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stdout + done.stderr
  assert ' passed' in done.stdout
  assert ' skipped' not in done.stdout


def make_optimizer(name='sgd', frozen=()):
  if name == 'adamw':
    rate = lambda step: 1e-2 * SCHEDULE(step)  # noqa: E731
    optimizer = nfnets.optim.nfnet_adamw(rate, clipping=CLIPPING)
  else:
    optimizer = nfnets.optim.nfnet_sgd(SCHEDULE, clipping=CLIPPING)
  return nfnets.optim.by_layer(optimizer, frozen=frozen)


def make_batch(seed, broken=False):
  rng = np.random.default_rng(seed)
  images = rng.standard_normal((DEVICES, 4, 8, 8, 3)).astype(np.float32)
  labels = rng.integers(0, 13, (DEVICES, 4)).astype(np.int32)
  ones = np.ones((DEVICES, 4), np.float32)
  return Batch(images * np.nan if broken else images, labels, labels, ones, ones)


@functools.cache
def train(num_shares, optimizer='sgd', num_steps=8, broken=(), **fields):
  """Returns (sharding, the whole state after the steps, metrics of each)."""
  chain = make_optimizer(optimizer, fields.get('frozen', ()))
  settings = steps.StepSettings(schedule=SCHEDULE, ema_decay=0.9, clipping=CLIPPING, **fields)
  of_private = secret.as_arrays(SECRET) if settings.private else ()
  sharding = steps.plan_sharding(NETWORK, chain, 8, num_shares, of_private)
  step = steps.make_train_step(NETWORK, chain, settings, sharding=sharding)
  state = sharding.place(steps.begin(chain, *steps.init_network(NETWORK, 0, 8), of_private))
  history = []
  for i in range(num_steps):
    state, metrics = step(state, make_batch(i, i in broken))
    history.append({name: float(value) for name, value in metrics.items()})
  return sharding, sharding.fetch(state), history


def assert_close(ours, theirs):
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for (path, x), y in zip(
    jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
  ):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def shared(sharding):
  """The parameters that are shared out."""
  names = jax.tree_util.tree_leaves_with_path(sharding.axes.params)
  return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in names]


@needs_devices
@pytest.mark.parametrize(
  'fields',
  [
    {},
    {
      'optimizer': 'adamw',
      'frozen': ('stem',),
      'sam_rho': 0.05,
      'accumulation_steps': 2,
      'broken': (3,),
    },
    *(
      pytest.param(fields, marks=pytest.mark.slow)
      for fields in (
        {'optimizer': 'adamw'},
        {'frozen': ('stem',)},
        {'sam_rho': 0.05},
        {'accumulation_steps': 2},
        {'broken': (3,)},
        {'private': PrivateSettings(clipping_norm=1.0, noise_multiplier=0.5, batch_size=16)},
        # Longer, and parameters that differ in their last bit would be rounded to other ones.
        {'compute_dtype': 'bfloat16', 'num_steps': 2},
      )
    ),
  ],
  ids=lambda fields: '-'.join(fields) or 'sgd',
)
def test_steps_equal_those_of_the_replicated_update(fields):
  _, theirs, their_history = train(1, **fields)
  sharding, ours, history = train(DEVICES, **fields)
  assert shared(sharding) == ['conv/w', 'linear/w']
  assert_close(ours, theirs)
  for got, want in zip(history, their_history, strict=True):
    assert got.keys() == want.keys()
    for name, value in want.items():
      np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
  broken = [i in fields.get('broken', ()) for i in range(len(history))]
  assert [m['nonfinite'] for m in history] == broken
  assert any(0 < m['clipped_share/weights'] < 1 for m in history)


@needs_devices
def test_a_device_has_its_share_of_everything_that_the_update_keeps():
  chain = make_optimizer('adamw')
  sharding = steps.plan_sharding(NETWORK, chain, 8, DEVICES)
  state = sharding.place(steps.init_state(NETWORK, chain, 0, 8))
  (adam,) = (part for part in state.opt_state if hasattr(part, 'mu'))
  for tree in (state.params, state.ema_params, adam.mu, adam.nu):
    conv = tree['conv']['w']
    assert [shard.data.shape for shard in conv.addressable_shards] == [(1, 3, 3, 32, 10)] * DEVICES
  np.testing.assert_array_equal(conv[3, ..., 8:], 0)  # channels 38 and 39 are padding


@needs_devices
def test_a_checkpoint_is_whole_and_goes_on_with_either_update(tmp_path):
  chain = make_optimizer()
  _, expected, _ = train(DEVICES)
  settings = steps.StepSettings(schedule=SCHEDULE, ema_decay=0.9, clipping=CLIPPING)
  done = 0
  for num_shares in (1, DEVICES):
    now = steps.plan_sharding(NETWORK, chain, 8, num_shares)
    step = steps.make_train_step(NETWORK, chain, settings, sharding=now)
    with checkpoints.Checkpointer(tmp_path, 1, sharding=now) as checkpointer:
      restored = checkpointer.restore(like=now.whole)
      assert (restored is None) == (done == 0)
      state = now.place(steps.init_state(NETWORK, chain, 0, 8) if done == 0 else restored)
      for i in range(done, done + 4):
        state, _ = step(state, make_batch(i))
      done += 4
      checkpointer.save(state)
  assert int(state.step) == 8
  assert_close(now.fetch(state), expected)


@needs_devices
def test_gathered_parameters_are_whole_on_every_device():
  sharding, expected, _ = train(DEVICES)
  gathered = steps.make_gather(sharding)(sharding.place(expected).params)
  for module, entries in expected.params.items():
    for name, value in entries.items():
      for shard in gathered[module][name].addressable_shards:
        np.testing.assert_array_equal(shard.data, value)


def shapes(**leaves):
  return {'m': {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in leaves.items()}}


@pytest.mark.parametrize(
  ('shape', 'num_shares', 'own'),
  [
    ((3, 3, 64, 130), 8, (3, 3, 64, 17)),
    ((64, 1000), 32, (64, 32)),
    ((64, 1000), 1, (64, 1000)),
    ((3, 3, 64, 16), 32, (3, 3, 64, 1)),
    ((3, 3, 64, 15), 32, (3, 3, 64, 15)),  # more than half of the shares would be padding
    ((3072,), 8, (3072,)),  # one unit
    ((1, 1, 1, 3072), 8, (1, 1, 1, 3072)),  # one unit as well
    ((1, 48, 48), 48, (1, 48, 48)),  # of a share [1, 48, 1] the whole would be a unit
    ((3, 3, 8, 8), 8, (3, 3, 8, 8)),  # small
  ],
)
def test_what_is_shared_out_by_hand(shape, num_shares, own):
  sharding = update_sharding.plan(
    lambda params, network_state: steps.begin(
      nfnets.optim.nfnet_sgd(0.1, classifier=''), params, {}
    ),
    shapes(w=shape),
    {},
    num_shares=num_shares,
  )
  assert sharding.own.params['m']['w'].shape == own
  assert sharding.own.ema_params['m']['w'].shape == own


class Slow:
  """An array whose copy to the host takes time: what happens to it is recorded."""

  shape = (2,)

  def __init__(self, name, events):
    self.name, self.events = name, events

  def addressable_data(self, index):
    return self

  def copy_to_host_async(self):
    self.events.append(f'start {self.name}')

  def __array__(self, dtype=None, copy=None):
    self.events.append(f'wait for {self.name}')
    return np.zeros(2, np.float32)


def test_all_copies_are_started_before_one_is_waited_for():
  events = []
  update_sharding.REPLICATED.fetch({'a': Slow('a', events), 'b': Slow('b', events)})
  assert events == ['start a', 'start b', 'wait for a', 'wait for b']


def test_auto_is_for_several_accelerators():
  (cpu, *_), tpus = jax.devices('cpu'), [types.SimpleNamespace(platform='tpu')] * 8
  assert update_sharding.num_shares('auto', [cpu] * 4) == 1
  assert update_sharding.num_shares('on', [cpu] * 4) == 4
  assert update_sharding.num_shares('auto', tpus) == 8
  assert update_sharding.num_shares('off', tpus) == 1
