"""Whole runs whose devices share out the update, interrupted and continued in other ways."""

import json
import re
import shutil
import time

import numpy as np
import pytest

from experiments.reporting import recording
from nfnets import weights

pytestmark = pytest.mark.slow

# Of the tiny network's arrays none is large enough. Without dropout and stochastic depth the
# devices' random keys do not matter.
FLAGS = [
  '--config.model.spec.width=(64, 64)',
  '--config.model.drop_rate=0.0',
  '--config.model.stochdepth_rate=0.0',
]
ON, OFF = '--config.optimizer.sharded_update=on', '--config.optimizer.sharded_update=off'


def checksums(workdir, step):
  return json.loads((workdir / f'checkpoints/{step}/checksums/metadata').read_text())


def kill_after(process, workdir, step):
  """Kills the process with signal 9 once it has logged a step from `step` on."""
  path = workdir / 'metrics.csv'
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    series = recording.read_csv(path).get('train/loss') if path.exists() else None
    if series is not None and len(series.steps) and series.steps[-1] >= step:
      break
    time.sleep(0.01)
  assert process.poll() is None, process.communicate()[0]
  process.kill()
  process.communicate()


def test_a_killed_run_continues_bit_for_bit(start_training, train, tmp_path):
  unbroken, broken = tmp_path / 'unbroken', tmp_path / 'broken'
  output = train(unbroken, *FLAGS, ON, devices=4)
  assert 'on 4 cpu device(s), float32, update shared out among 4.' in output
  kill_after(start_training(broken, *FLAGS, ON, devices=4), broken, step=20)
  output = train(broken, *FLAGS, ON, devices=4)
  assert re.search(r'Resuming at step [1-9]\d*\.', output)
  assert checksums(broken, 64) == checksums(unbroken, 64)


def test_a_run_goes_on_with_any_number_of_devices_and_across_the_switch(
  train, start_processes, tmp_path
):
  flags = [
    *FLAGS, f'--config.num_epochs={25 * 32 / 1437}', '--config.keep_checkpoints=9',
    '--config.log_every_steps=1',
  ]  # fmt: skip
  expected = tmp_path / 'expected'
  train(expected, *flags, OFF, devices=1)

  workdir = tmp_path / 'run'
  train(workdir, *flags, ON, devices=4)
  for begin, devices, flag in ((5, 1, ON), (10, 2, ON), (15, 4, OFF), (20, 0, ON)):
    for path in (workdir / 'checkpoints').iterdir():
      if int(path.name) > begin:
        shutil.rmtree(path)
    (workdir / 'report.json').unlink()
    if devices:
      output = train(workdir, *flags, flag, devices=devices)
    else:  # two processes of two
      processes = start_processes(workdir, *flags, flag, processes=2, devices=2)
      outputs = [process.communicate(timeout=300)[0] for process in processes]
      assert [process.returncode for process in processes] == [0, 0], outputs
      output = outputs[0]
    assert f'Resuming at step {begin}.' in output
    assert ('shared out' in output) == (flag == ON and devices != 1)

  ours, theirs = (weights.load(d / 'ema_weights.safetensors')[0] for d in (workdir, expected))
  for module, entries in theirs.items():
    for name, value in entries.items():
      np.testing.assert_allclose(ours[module][name], value, rtol=0, atol=1e-6)
