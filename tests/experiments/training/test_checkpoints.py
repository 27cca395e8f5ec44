"""Full disks and damaged states."""

import json
import shutil

import jax
import numpy as np
import pytest

from experiments.runtime.errors import CheckpointError
from experiments.training import checkpoints
from experiments.training.steps import TrainState


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
