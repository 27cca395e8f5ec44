"""Runs of the training program in processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).parent / 'tiny_config.py'


@pytest.fixture(scope='session')
def start_training(tmp_path_factory):
  """(workdir, *flags, devices=1) -> the running process, its output in one pipe."""
  # The processes share their compiled programs: most of a short run is compilation.
  cache = tmp_path_factory.mktemp('compilation_cache')

  def start(workdir, *arguments, devices=1, config=CONFIG, start_new_session=False):
    environment = {
      **os.environ,
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    command = [sys.executable, '-m', 'experiments.train', f'--config={config}']
    return subprocess.Popen(
      [*command, f'--workdir={workdir}', *arguments],
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
