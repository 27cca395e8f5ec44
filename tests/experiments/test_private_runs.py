"""Private runs as programs: killed and resumed, within one budget and with the same noise."""

import json
import shutil
import time

import numpy as np
import pytest

from experiments.reporting import recording
from nfnets import weights

FLAGS = [
  '--config.private.epsilon=20',
  '--config.private.augmentation_multiplicity=2',
  '--config.num_epochs=0.9',  # 40 updates
  '--config.optimizer.clipping=0',
]


@pytest.mark.slow
def test_a_killed_private_run_goes_on_with_its_budget_and_the_same_noise(
  start_training, train, tmp_path
):
  killed, other = tmp_path / 'killed', tmp_path / 'other'
  process = start_training(killed, *FLAGS)
  deadline = time.monotonic() + 300
  while not (killed / 'checkpoints/15').is_dir():
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.02)
  process.kill()
  process.communicate()
  # Another copy loses the newest checkpoints: it makes their updates again.
  shutil.copytree(killed, other)
  kept = sorted(int(path.name) for path in (other / 'checkpoints').iterdir() if path.name.isdigit())
  for step in kept[1:]:
    shutil.rmtree(other / 'checkpoints' / str(step))
  said = [train(workdir, *FLAGS) for workdir in (killed, other)]
  assert 'Resuming at step' in said[0]
  assert f'Resuming at step {kept[0]}.' in said[1]
  assert 'Privacy: epsilon' in said[1]
  # Equal to the bit, so that the noise and the examples of all updates are.
  trees = [weights.load(workdir / 'ema_weights.safetensors') for workdir in (killed, other)]
  for module, entries in trees[0][0].items():
    for name, value in entries.items():
      np.testing.assert_array_equal(trees[1][0][module][name], value)
  reports = [json.loads((workdir / 'report.json').read_text()) for workdir in (killed, other)]
  privacy = reports[0]['privacy']
  assert reports[1]['privacy'] == privacy == json.loads(trees[0][1]['privacy'])
  assert 19.8 < privacy['epsilon'] <= 20  # noise is calibrated to a thousandth
  spent = recording.read_csv(killed)['train/epsilon']
  assert spent.steps[-1] == privacy['updates'] == 40
  assert np.all(np.diff(spent.values) > 0)
  np.testing.assert_allclose(spent.values[-1], privacy['epsilon'], rtol=1e-6)
  # Another noise is another run.
  refused = train(killed, *FLAGS, '--config.private.noise_multiplier=2', code=1)
  assert 'holds a run of another config (--config.private.noise_multiplier:' in refused
