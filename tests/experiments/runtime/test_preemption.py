"""A run that is asked to stop."""

import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np

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
  assert process.returncode == 75, output
  step = int(re.search(r'Asked to stop after step (\d+)\.', output).group(1))
  assert f'The same command goes on from step {step}.' in output
  assert 8 <= step < 126
  assert f'Resuming at step {step}.' in train(stopped, *flags)
  want, got = (weights.load(d / 'ema_weights.safetensors')[0] for d in (whole, stopped))
  for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
    np.testing.assert_array_equal(a, b)
  assert not list(tmp_path.rglob('*tmp*'))


SIGNALLED_TWICE = """
import os, signal, sys, time
from experiments.runtime import preemption

with preemption.Preemption() as asked:
  os.kill(os.getpid(), signal.SIGTERM)
  print('asked' if asked.requested(1) else 'not asked', flush=True)
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
