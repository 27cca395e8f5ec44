"""Two processes on loopback, of which one fails or is killed: both end soon, with a sentence."""

import pathlib
import subprocess
import sys

import pytest

from experiments.runtime import failures

ROOT = pathlib.Path(__file__).parents[3]

# Joins, then does what `action` says: one process fails, the other waits for it in a collective.
PROGRAM = """
import os, sys, time
from absl import app
from experiments.runtime import agreement, command_line, processes
from experiments.runtime.errors import DataError

def collective():
  import jax
  from jax.experimental import multihost_utils
  multihost_utils.sync_global_devices('up')
  print('up', flush=True)
  multihost_utils.sync_global_devices('never')

def main():
  with processes.together():
    import jax
    if jax.process_index() == {failing}:
      {action}
    {waiting}

command_line.run(main)
"""


@pytest.fixture
def start_two(free_port):
  """(program, *flags) -> the two processes."""
  started = []

  def start(program, *flags):
    coordinator = f'--coordinator=127.0.0.1:{free_port()}'
    for i in range(2):
      command = [sys.executable, '-c', program, coordinator, '--num_processes=2', *flags]
      pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT, 'text': True}
      started.append(subprocess.Popen([*command, f'--process_id={i}'], cwd=ROOT, **pipes))
    return started

  yield start
  for process in started:
    process.kill()
    process.wait()


@pytest.mark.parametrize(
  ('failing', 'action', 'sentence'),
  [
    (1, "raise DataError('no pictures')", 'no pictures'),
    (0, "raise OSError(28, 'No space left')", '[Errno 28] No space left'),
    (1, 'raise KeyboardInterrupt', 'it was interrupted'),
    (1, '1 / 0', 'ZeroDivisionError: division by zero'),
    (0, "raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: no')", 'JaxRuntimeError: RESOURCE'),
  ],
)
def test_an_error_of_one_process_ends_both_with_its_sentence(
  start_two, ends_alike, failing, action, sentence
):
  waiting = 'agreement.from_all(1)'
  program = PROGRAM.format(failing=failing, action=action, waiting=waiting)
  outputs = ends_alike(start_two(program, '--heartbeat_timeout=10'))
  assert f'Error: process {failing} of 2 fails: {sentence}' in outputs[failing]
  other = 1 - failing
  assert (
    f'Error: process {other} of 2 stops because process {failing} failed: {sentence}'
    in outputs[other]
  )


def test_an_error_ends_a_process_that_waits_for_devices(start_two, ends_alike):
  program = PROGRAM.format(
    failing=1, action="raise DataError('no pictures')", waiting='collective()'
  )
  outputs = ends_alike(start_two(program, '--heartbeat_timeout=10'))
  assert 'stops because process 1 failed: no pictures' in outputs[0]


@pytest.mark.parametrize('lost', [0, 1])
def test_a_killed_process_ends_the_other_with_a_sentence(start_two, lost):
  program = PROGRAM.format(failing=-1, action='pass', waiting='print("up", flush=True)\n'
                           '    time.sleep(100)')  # fmt: skip
  processes = start_two(program, '--heartbeat_timeout=6')
  for process in processes:
    assert 'up' in process.stdout.readline()
  processes[lost].kill()
  other = processes[1 - lost]
  output = other.communicate(timeout=60)[0]
  assert other.returncode == 1, output
  assert f'Error: process {1 - lost} of 2 stops because another one was lost' in output
  assert 'terminate called' not in output
  assert 'Fatal Python error' not in output


def test_process_0_killed_before_all_have_joined_ends_the_other(start_two):
  program = 'import time; from experiments.runtime import command_line, processes\n'
  # Process 0 has the service up, and then dies before it can join.
  program += """
import os, sys
from jax._src.lib import _jax
def main():
  if '--process_id=0' in sys.argv:
    make = _jax.get_distributed_runtime_service
    def start(*a, **k):
      service = make(*a, **k)
      time.sleep(6)
      os.kill(os.getpid(), 9)
    _jax.get_distributed_runtime_service = start
  with processes.together():
    pass
command_line.run(main)
"""
  _, other = start_two(program, '--heartbeat_timeout=3', '--start_timeout=100')
  output = other.communicate(timeout=60)[0]
  assert other.returncode == 1, output
  assert 'process 1 of 2 stops because process 0 was lost while starting' in output


@pytest.mark.parametrize('checkpoints', [True, False])
def test_checkpoints_are_promised_only_where_there_are_some(monkeypatch, checkpoints):
  monkeypatch.setattr(failures, '_resumption', '')
  failures.promise(checkpoints)
  said = failures._sentence(KeyboardInterrupt())
  assert said.startswith('it was interrupted')
  assert ('checkpoint' in said) == checkpoints
