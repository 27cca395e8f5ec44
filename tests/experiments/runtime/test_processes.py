"""Several processes on loopback learn what one does; a lost one ends the others."""

import time

import numpy as np
import pytest

from experiments.reporting import recording
from experiments.runtime import processes
from experiments.runtime.errors import ConfigError
from nfnets import weights

# Without dropout and stochastic depth the devices' random keys do not matter.
FLAGS = ['--config.model.drop_rate=0.0', '--config.model.stochdepth_rate=0.0']


def run_to_the_end(processes, code=0):
  outputs = [process.communicate(timeout=300)[0] for process in processes]
  assert [p.returncode for p in processes] == [code] * len(processes), '\n'.join(outputs)
  return outputs


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_continue_each_others_runs(
  start_processes, train, tmp_path
):
  one, two = tmp_path / 'one', tmp_path / 'two'
  train(one, *FLAGS, devices=4)
  outputs = run_to_the_end(start_processes(two, *FLAGS, processes=2, devices=2))
  assert 'Done: test top-1' in outputs[0]
  assert outputs[1].count('step ') == 0  # only the first process reports
  want, got = (recording.read_csv(d) for d in (one, two))
  np.testing.assert_array_equal(got['train/loss'].steps, want['train/loss'].steps)
  # The same examples stand in other places of the batch, so sums round differently.
  np.testing.assert_allclose(got['train/loss'].values, want['train/loss'].values, rtol=1e-4)
  assert got['test/count'].values[-1] == 360
  params = [weights.load(d / 'ema_weights.safetensors')[0] for d in (one, two)]
  for module, entries in params[0].items():
    for name, value in entries.items():
      np.testing.assert_allclose(params[1][module][name], value, rtol=1e-3, atol=1e-5)

  # Each layout goes on from the other's checkpoint.
  for workdir, last in ((one, 64), (two, 64)):
    for path in (workdir / 'checkpoints' / str(last), workdir / 'report.json'):
      path.rename(tmp_path / f'{workdir.name}-{path.name}')
  assert 'Resuming at step 60.' in train(two, *FLAGS, devices=4)
  outputs = run_to_the_end(start_processes(one, *FLAGS, processes=2, devices=2))
  assert 'Resuming at step 60.' in outputs[0]
  again = weights.load(one / 'ema_weights.safetensors')[0]['NFNet/~/linear']['w']
  np.testing.assert_allclose(again, params[0]['NFNet/~/linear']['w'], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('lost', [0, 1])
def test_a_lost_process_ends_the_other_in_bounded_time(start_processes, tmp_path, lost):
  processes = start_processes(
    tmp_path, '--config.num_epochs=2000', '--heartbeat_timeout=10', processes=2, devices=1
  )
  deadline = time.monotonic() + 200
  while time.monotonic() < deadline and not (tmp_path / 'metrics.csv').exists():
    time.sleep(0.1)
  time.sleep(3)
  processes[lost].kill()
  began = time.monotonic()
  output, _ = processes[1 - lost].communicate(timeout=90)
  assert time.monotonic() - began < 60
  assert processes[1 - lost].returncode == 1, output
  assert f'Error: process {1 - lost} of 2 stops because another one was lost' in output


def test_sigterm_stops_all_processes_at_one_step(start_processes, tmp_path):
  processes = start_processes(tmp_path, '--config.num_epochs=2000', processes=2, devices=1)
  deadline = time.monotonic() + 200
  while time.monotonic() < deadline and not (tmp_path / 'metrics.csv').exists():
    time.sleep(0.1)
  time.sleep(2)
  processes[1].terminate()
  outputs = run_to_the_end(processes, code=75)
  assert 'Asked to stop after step' in outputs[0]


def test_incomplete_flags_are_named(train, tmp_path):
  output = train(tmp_path / 'run', '--coordinator=127.0.0.1:1', code=1)
  assert 'needs --num_processes and --process_id as well' in output
  output = train(tmp_path / 'run', '--num_processes=2', code=1)
  assert 'need --coordinator=host:port as well' in output


def test_processes_that_do_not_come_are_one_sentence(train, free_port, tmp_path):
  flags = [f'--coordinator=127.0.0.1:{free_port()}', '--num_processes=2', '--start_timeout=2']
  for i in range(2):
    output = train(tmp_path / 'run', *flags, f'--process_id={i}', code=1)
    assert f'process {i} of 2 fails: the processes did not find each other' in output
    assert 'within --start_timeout=2 seconds (nobody came)' in output


@pytest.mark.parametrize(
  ('coordinator', 'environment', 'number', 'expected'),
  [
    ('localhost:8000', {}, 2, [[0, 1], [2, 3]]),  # of the four of nvidia-smi
    ('127.0.0.1:8000', {}, 4, [[0], [1], [2], [3]]),
    ('host0:8000', {}, 2, [None, None]),
    ('localhost:8000', {}, 1, [None]),
    ('localhost:8000', {'CUDA_VISIBLE_DEVICES': '5,7'}, 2, [[0], [1]]),  # among those
    ('localhost:8000', {'CUDA_VISIBLE_DEVICES': ''}, 2, [None, None]),
    ('localhost:8000', {'JAX_PLATFORMS': 'cpu'}, 3, [None] * 3),
    ('localhost:8000', {'JAX_LOCAL_DEVICE_IDS': '3'}, 3, [None] * 3),
  ],
)
def test_processes_of_one_host_share_its_gpus_out(
  four_gpus, monkeypatch, coordinator, environment, number, expected
):
  for name, value in environment.items():
    monkeypatch.setenv(name, value)
  assert [processes._own_gpus(coordinator, number, i) for i in range(number)] == expected


def test_processes_that_cannot_share_the_gpus_evenly_are_refused(four_gpus):
  with pytest.raises(ConfigError, match=r'3 processes cannot share the 4 GPU\(s\) of this host'):
    processes._own_gpus('localhost:8000', 3, 0)


@pytest.fixture
def four_gpus(monkeypatch, tmp_path):
  """An nvidia-smi that lists four."""
  program = tmp_path / 'nvidia-smi'
  program.write_text('#!/bin/sh\nfor i in 0 1 2 3; do echo "GPU $i: NVIDIA A100 (UUID: x)"; done\n')
  program.chmod(0o755)
  for name in ('CUDA_VISIBLE_DEVICES', 'JAX_LOCAL_DEVICE_IDS', 'JAX_PLATFORMS'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=':')
