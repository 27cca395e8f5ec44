"""Full disks and damaged states."""

import json
import shutil
import threading

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


def test_the_loop_does_not_wait_for_checksums(tmp_path, state_on_device, monkeypatch):
  may_go_on, threads = threading.Event(), []
  original = checkpoints._checksums

  def checksums(state):
    threads.append(threading.current_thread())
    assert may_go_on.wait(60)
    return original(state)

  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    with monkeypatch.context() as patch:
      patch.setattr(checkpoints, '_checksums', checksums)
      checkpointer.save(state_on_device)  # it returns, or the wait above ends with a failure
      state_on_device.params['m']['w'].delete()  # the next step may have the buffer
      may_go_on.set()
      checkpointer.wait()
    assert checkpointer.restore(state_on_device).step == 5
  assert threads
  assert threading.main_thread() not in threads


def test_what_fails_in_the_writing_thread_is_told_by_the_next_call(
  tmp_path, state_on_device, monkeypatch
):
  def fail(state):
    raise OSError('the disk is gone')

  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    with monkeypatch.context() as patch:
      patch.setattr(checkpoints, '_checksums', fail)
      checkpointer.save(state_on_device)
      with pytest.raises(CheckpointError, match=r'step 5 could not be .*the disk is gone'):
        checkpointer.wait()
    checkpointer.save(state_on_device)
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


def test_a_stray_copy_under_a_higher_number_is_set_aside(tmp_path, state_on_device, caplog):
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    checkpointer.save(state_on_device)
  shutil.copytree(tmp_path / 'checkpoints/5', tmp_path / 'checkpoints/90')
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    assert checkpointer.restore(state_on_device).step == 5
    checkpointer.save(state_on_device._replace(step=jax.numpy.int32(6)))
  assert 'it holds the state of step 5' in caplog.text
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['5', '6']
  assert [p.name for p in (tmp_path / 'damaged_checkpoints').iterdir()] == ['90-0']


@pytest.mark.parametrize(
  ('parts', 'sentence'),
  [
    ({'params': {'m': {'w': np.zeros(9)}}}, r'params/m/w has the shape \(8,\) there and \(9,\) in'),
    ({'params': {'n': {'w': np.zeros(8)}}}, r'params/m/w has the shape \(8,\) there and \(none\)'),
    ({'opt_state': (np.int32(5), {})}, r'opt_state/1/m/w has the shape \(8,\) there and \(none\)'),
  ],
)
def test_a_state_of_another_network_is_one_sentence_and_stays(
  tmp_path, state_on_device, parts, sentence
):
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    checkpointer.save(state_on_device)
  with checkpoints.Checkpointer(tmp_path, keep=2) as checkpointer:
    with pytest.raises(CheckpointError, match=f'checkpoints/5 is of another network: {sentence}'):
      checkpointer.restore(state_on_device._replace(**parts))
    assert checkpointer.restore(state_on_device).step == 5
