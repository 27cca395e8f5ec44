"""A network with batch normalisation goes through the same loop, its statistics with it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from nfnets import baselines, weights

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).parent / 'tiny_config.py'
SPEC = {
  'family': 'BN_ResNet',
  'width': (16, 32),
  'depth': (1, 1),
  'stride': (1, 2),
  'stem': ((3, 2, 8),),
  'stem_pool': False,
  'drop_rate': 0.1,
  'train_size': 16,
  'test_size': 16,
}
ARGUMENTS = (
  f'--config.model.spec={SPEC}',
  '--config.num_epochs=1',
  '--config.optimizer.clipping=0',
  '--config.accumulation_steps=2',
)
DEVICES = 2


@pytest.fixture(scope='module')
def run(train, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('baseline')
  return workdir, train(workdir, *ARGUMENTS, devices=DEVICES)


def checksums(workdir, step):
  return json.loads((workdir / f'checkpoints/{step}/checksums/metadata').read_text())


def test_the_state_is_in_the_checkpoint_and_in_the_weights(run):
  workdir, _ = run
  report = json.loads((workdir / 'report.json').read_text())
  last = checksums(workdir, report['steps'])
  kept = [key for key in last if key.startswith("['network_state']")]
  averaged = [key for key in last if key.startswith("['ema_network_state']")]
  # Of 7 normalisations: a mean and a variance, each with counter, hidden and average.
  assert len(kept) == len(averaged) == 7 * 2 * 3
  # They are no copies of each other, and the counters are the same integers.
  differ = [key for key in kept if last[key] != last[key.replace('network', 'ema_network')]]
  assert len(differ) == 7 * 2 * 2

  tree, metadata = weights.load(workdir / 'ema_weights.safetensors')
  params, state = baselines.split_state(tree)
  assert metadata['spec']['family'] == 'BN_ResNet'
  assert (
    sum(np.size(a) for entries in params.values() for a in entries.values())
    == (report['parameters'])
  )
  statistics = state['BN_ResNet/~/final_norm/~/batch_norm/~/var_ema']
  assert statistics['counter'] == 2 * report['steps']  # one for each slice of a batch
  assert statistics['counter'].dtype == np.int32
  assert statistics['average'].shape == (1, 1, 1, 32)
  assert (statistics['average'] > 0).all()


def test_its_weights_evaluate_to_the_figures_of_its_report(run):
  workdir, _ = run
  command = [sys.executable, '-m', 'experiments.evaluate', f'--config={CONFIG}']
  command.append(f'--weights={workdir / "ema_weights.safetensors"}')
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
  results = json.loads(done.stdout)
  report = json.loads((workdir / 'report.json').read_text())
  assert results['top1'] == report['top1_ema']
  assert results['loss'] == pytest.approx(report['loss_ema'], rel=1e-4)


def test_the_same_command_resumes_from_its_checkpoint(run, train):
  workdir, _ = run
  report = json.loads((workdir / 'report.json').read_text())
  before = checksums(workdir, report['steps'])
  output = train(workdir, *ARGUMENTS, devices=DEVICES)
  assert f'Resuming at step {report["steps"]}.' in output
  assert checksums(workdir, report['steps']) == before
  assert json.loads((workdir / 'report.json').read_text()) == report


def test_a_field_of_the_other_families_is_refused(train, tmp_path):
  spec = {**SPEC, 'alpha': 0.2}
  output = train(tmp_path / 'run', f'--config.model.spec={spec}', code=1)
  assert "ResNetSpec has no field 'alpha'" in output
