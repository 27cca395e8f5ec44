"""Worker processes that are killed."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest


def workers(process):
  """The pids of the processes that prepare batches."""
  found = subprocess.run(
    ['ps', '-ww', '-o', 'pid=,args=', '--ppid', str(process.pid)],
    capture_output=True,
    text=True,
    check=False,
  )
  return [int(line.split()[0]) for line in found.stdout.splitlines() if 'spawn_main' in line]


def shared_memory(pids):
  """The names of what these processes share at this moment."""
  maps = ''.join(pathlib.Path(f'/proc/{pid}/maps').read_text() for pid in pids)
  return set(re.findall(r'/dev/shm/(\S+)', maps))


@pytest.fixture
def process(start_training, tmp_path):
  """A run with two workers that has logged a step."""
  process = start_training(tmp_path, '--config.num_epochs=1000', '--config.data.num_workers=2')
  try:
    deadline, path = time.monotonic() + 300, tmp_path / 'metrics.csv'
    while not path.exists() or not re.search(r'^4,', path.read_text(), re.MULTILINE):
      assert process.poll() is None, process.communicate()[0]
      assert time.monotonic() < deadline
      time.sleep(0.05)
    yield process
  finally:
    process.kill()


def test_a_killed_worker_ends_the_run_with_a_sentence(process):
  pids = workers(process)
  assert len(pids) == 2
  shared = shared_memory([process.pid, *pids])
  assert shared
  os.kill(pids[0], signal.SIGKILL)
  output, _ = process.communicate(timeout=90)
  assert process.returncode == 1, output
  assert output.splitlines()[-1] == (
    'Error: a worker process that prepares batches was killed by signal 9 (Killed); most often '
    'memory has run out: lower --config.data.num_workers. Give the command again. '
    '(--debug shows more)'
  )
  assert 'Traceback' not in output
  assert 'leaked' not in output
  deadline = time.monotonic() + 20
  while left := [name for name in shared if pathlib.Path('/dev/shm', name).exists()]:
    assert time.monotonic() < deadline, left
    time.sleep(0.05)
