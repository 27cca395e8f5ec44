"""Runs of the training program in processes of their own; what fine-tuning begins with."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest
from small_finetuning import folder, make_config, trunk

__all__ = ['folder', 'make_config', 'trunk']

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).parent / 'tiny_config.py'


@pytest.fixture(scope='session')
def start_training(tmp_path_factory):
  """(workdir, *flags, devices=1, program=...) -> the running process, its output in one pipe."""
  # The processes share their compiled programs: most of a short run is compilation.
  cache = tmp_path_factory.mktemp('compilation_cache')

  def start(
    workdir, *arguments, devices=1, config=CONFIG, program='train', start_new_session=False
  ):
    environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    command = [sys.executable, '-m', f'experiments.{program}', f'--config={config}']
    if workdir is not None:
      command.append(f'--workdir={workdir}')
    return subprocess.Popen(
      [*command, *arguments],
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=start_new_session,
    )

  return start


@pytest.fixture(scope='session')
def train(start_training):
  """(workdir, *flags, devices=1, code=0) -> the output of a run that ends with `code`."""

  def run(workdir, *arguments, code=0, **options):
    process = start_training(workdir, *arguments, **options)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output
    return output

  return run


@pytest.fixture(scope='session')
def free_port():
  """() -> a port that nobody listens on."""

  def find():
    with socket.socket() as s:
      s.bind(('127.0.0.1', 0))
      return s.getsockname()[1]

  return find


@pytest.fixture
def start_processes(start_training, free_port):
  """(workdir, *flags, processes, devices, each=...) -> the running processes of one run.

  `each` has more flags for each process, which may also be of another `workdir`.
  """
  started = []

  def start(workdir, *flags, processes, devices, each=None, **options):
    coordinator = f'--coordinator=127.0.0.1:{free_port()}'
    for i in range(processes):
      of_process = [coordinator, f'--num_processes={processes}', f'--process_id={i}']
      arguments = [*of_process, *flags, *(each[i] if each else ())]
      started.append(start_training(workdir, *arguments, devices=devices, **options))
    return started[-processes:]

  yield start
  for process in started:
    process.kill()
    process.wait()


@pytest.fixture(scope='session')
def ends_alike():
  """(processes, seconds=60) -> their outputs, once all ended with code 1 and a sentence each."""

  def check(processes, seconds=60):
    deadline = time.monotonic() + seconds
    outputs = [p.communicate(timeout=max(1, deadline - time.monotonic()))[0] for p in processes]
    assert [p.returncode for p in processes] == [1] * len(processes), '\n'.join(outputs)
    for output in outputs:
      assert output.count('Error: process') == 1, output
      assert 'terminate called' not in output  # C++
      assert 'Fatal Python error' not in output
    return outputs

  return check
