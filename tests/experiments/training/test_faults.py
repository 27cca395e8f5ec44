"""Signals, full disks and numbers that are not finite."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import haiku as hk
import jax
import numpy as np
import pytest

from experiments.data.batch import Batch
from experiments.runtime.errors import CheckpointError
from experiments.training import checkpoints, nonfinite
from experiments.training.steps import TrainState
from nfnets import weights


def wait_for_step(process, workdir, step):
  deadline = time.monotonic() + 300
  path = workdir / 'metrics.csv'
  while time.monotonic() < deadline and process.poll() is None:
    if path.exists() and re.search(rf'^{step},', path.read_text(), re.MULTILINE):
      return
    time.sleep(0.01)
  raise AssertionError(process.communicate()[0])


def test_sigterm_saves_and_the_run_goes_on_as_if_unbroken(start_training, train, tmp_path):
  whole, stopped = tmp_path / 'whole', tmp_path / 'stopped'
  flags = ['--config.num_epochs=2.8', '--config.checkpoint_every_steps=1000']
  train(whole, *flags)
  process = start_training(stopped, *flags)
  wait_for_step(process, stopped, 8)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=120)
  assert process.returncode == 0, output
  step = int(re.search(r'Asked to stop: saved step (\d+)\.', output).group(1))
  assert 'The same command goes on from there.' in output
  assert 8 <= step < 126
  assert f'Resuming at step {step}.' in train(stopped, *flags)
  want, got = (weights.load(d / 'ema_weights.safetensors')[0] for d in (whole, stopped))
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not list(tmp_path.rglob('*tmp*'))


SIGNALLED_TWICE = """
import os, signal, sys, time
from experiments.training import nonfinite as faults

with faults.Preemption() as preemption:
  os.kill(os.getpid(), signal.SIGTERM)
  print('asked' if preemption.requested(1) else 'not asked', flush=True)
  os.kill(os.getpid(), signal.SIGTERM)
  time.sleep(5)
  print('still here')
"""


def test_a_second_signal_ends_the_process_at_once():
  command = [sys.executable, '-c', SIGNALLED_TWICE]
  root = pathlib.Path(__file__).parents[3]
  done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120)
  assert done.stdout == 'asked\n'
  assert done.returncode == 128 + signal.SIGTERM


DIVERGING = ['--config.optimizer.learning_rate=1e30', '--config.optimizer.clipping=0']


def test_a_diverged_run_stops_with_step_rate_and_layers(train, tmp_path):
  # Packed by the host: a person is to see images.
  output = train(tmp_path, *DIVERGING, '--config.data.packed_images=on', code=1)
  match = re.search(r'of step (\d+) is not finite, at learning rate ([\d.]+e\+\d+)', output)
  assert match, output
  assert float(match.group(2)) > 1e20
  assert 'NFNet/~/' in output
  assert 'Traceback' not in output
  step = match.group(1)
  params, _ = weights.load(tmp_path / f'nonfinite_step_{step}.safetensors')
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))  # those before the step
  with np.load(tmp_path / f'nonfinite_step_{step}_batch.npz') as batch:
    assert batch['images'].shape[1:] == (32, 16, 16, 3)


def test_steps_that_are_not_finite_can_be_left_out(train, tmp_path):
  output = train(tmp_path, *DIVERGING, '--config.on_nonfinite=skip')
  assert 'was left out: its loss or gradient is not finite.' in output
  params, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))
  assert json.loads((tmp_path / 'report.json').read_text())['steps'] == 64


def test_the_first_module_that_breaks_is_named():
  def network(images, is_training):
    x = hk.Conv2D(4, 3, name='fine')(images)
    x = hk.Conv2D(4, 3, name='breaks', w_init=hk.initializers.Constant(np.inf))(x)
    return {'logits': hk.Conv2D(4, 3, name='after')(x)}

  transformed = hk.transform_with_state(network)
  images = np.ones((1, 2, 8, 8, 3), np.float32)
  params, state = transformed.init(jax.random.key(0), images[0], False)
  batch = Batch(images, *[np.zeros((1, 2))] * 4)
  found = nonfinite.first_nonfinite(transformed, params, state, batch)
  assert found == ['breaks: NaN or infinite values', 'after: NaN or infinite values']


@pytest.fixture
def state():
  x = {'m': {'w': np.arange(8, dtype=np.float32)}}
  return TrainState(np.int32(5), x, {}, (np.int32(5), x), x, {})


@pytest.fixture
def state_on_device(state):
  return jax.tree.map(jax.numpy.asarray, state)


def fill_disk(monkeypatch):
  """Leaves a kilobyte of the disk."""
  usage = shutil.disk_usage('/')
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=1000))


def test_a_full_disk_keeps_the_checkpoint_before_and_stops(tmp_path, state_on_device, monkeypatch):
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    checkpointer.save(state_on_device)
    checkpointer.wait()
    with monkeypatch.context() as patch:
      fill_disk(patch)
      later = state_on_device._replace(step=jax.numpy.int32(6))
      with pytest.raises(
        CheckpointError, match=r'step 6 could not be written.*needs about .* MB.*step 5 is kept'
      ):
        checkpointer.save(later)
    restored = checkpointer.restore(state_on_device)
  assert restored.step == 5
  np.testing.assert_array_equal(restored.params['m']['w'], np.arange(8))


def test_a_full_disk_may_also_let_the_run_go_on(tmp_path, state_on_device, monkeypatch):
  with checkpoints.Checkpointer(tmp_path, keep=2, on_failure='continue') as checkpointer:
    with monkeypatch.context() as patch:
      fill_disk(patch)
      checkpointer.save(state_on_device)
    checkpointer.save(state_on_device)  # there is room again
  assert (tmp_path / 'checkpoints/5').exists()


def test_a_flipped_byte_is_found(tmp_path, state_on_device):
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    checkpointer.save(state_on_device)
    checkpointer.wait()
    checksums = tmp_path / 'checkpoints/5/checksums/metadata'
    content = json.loads(checksums.read_text())
    first = min(content)
    content[first] ^= 1
    checksums.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match='differ from what was saved'):
      checkpointer.restore(state_on_device)
