"""The runs, rows and figures of the papers' claims."""

import dataclasses
import json
import pathlib
import re

import haiku as hk
import jax
import numpy as np
import optax
import pytest

from experiments.runtime.errors import ConfigError
from experiments.training import steps
from experiments.training.gradients import StepSettings
from nfnets import optim
from scripts import reproduce
from scripts.reproducing import pictures, study, training
from scripts.reproducing.claims import CLAIMS
from scripts.reproducing.rows import Rows

ROOT = pathlib.Path(__file__).parents[2]
FIGURES = ROOT / 'docs/figures/claims'
PUBLISHED = sorted(path.stem for path in FIGURES.glob('*.json'))
ARGUMENTS = {'claim': 'small_batch', 'data': 'digits', 'quick': True}


def test_what_there_is_not_ends_in_one_sentence(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as error:
    reproduce.main(['large_batches'])
  assert error.value.code == 2
  assert 'CLAIM must be one of match, ablation, small_batch' in capsys.readouterr().err
  with pytest.raises(SystemExit):
    reproduce.main([])
  assert 'none was given' in capsys.readouterr().err
  with pytest.raises(ConfigError, match='^--data=./pictures is no folder: give one with'):
    reproduce.main(['match', '--data', './pictures'])
  pathlib.Path('file').touch()
  with pytest.raises(ConfigError, match='^--out=file is a file: give the name of a folder$'):
    reproduce.main(['match', '--out', 'file'])


def test_the_list_names_every_claim_and_runs_nothing(capsys):
  assert reproduce.main(['--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split(':')[0] for line in lines] == list(CLAIMS)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ('{"mine": 1}', 'small_batch.json, where the numbers would go, is no file of this script'),
    ('[1]', 'is no file of this script'),
    ('text', 'is no file of this script'),
    ('{"arguments": 3, "rows": []}', 'is no file of this script'),
    (
      json.dumps({'arguments': {**ARGUMENTS, 'data': 'shoes'}, 'rows': []}),
      'has runs with data shoes, and these are with digits: choose another --out',
    ),
    (
      json.dumps({'arguments': {**ARGUMENTS, 'quick': False}, 'rows': []}),
      'has runs with quick False, and these are with True',
    ),
  ],
)
def test_results_of_something_else_are_not_written_over(tmp_path, content, message):
  path = tmp_path / 'small_batch.json'
  path.write_text(content)
  with pytest.raises(ConfigError, match=re.escape(message)):
    reproduce.main(['small_batch', '--quick', '--out', str(tmp_path)])
  assert path.read_text() == content


def test_rows_are_measured_once_and_kept(tmp_path, capsys):
  path, measured = tmp_path / 'rows.json', []

  def measure(value):
    def call():
      measured.append(value)
      return {'test': value}

    return call

  for _ in range(2):
    rows = Rows(path, ARGUMENTS)
    rows.expect(2)
    found = [rows.get({'rate': rate, 'seed': 0}, measure(rate / 2)) for rate in (0.5, 1.0)]
    assert [row['test'] for row in found] == [0.25, 0.5]
  assert measured == [0.25, 0.5]
  assert [row['rate'] for row in json.loads(path.read_text())['rows']] == [0.5, 1.0]
  first, last = capsys.readouterr().out.splitlines()
  assert first.startswith('[1/2] rate 0.5  seed 0  test 0.25')
  assert re.search(r'runs/min  ETA \d+s$', last)


class Ending:
  """A trainer: at rate r, r / 2 of what to choose by comes out right, and 1 - r of the test."""

  def __init__(self, *_):
    self.tried = []

  def run(self, knobs, seed, images, labels, recipe):
    self.tried.append((knobs['rate'], seed, knobs.get('clipping')))
    finite = knobs['rate'] < 1
    return training.Trained(_State(knobs['rate'], knobs['rate']), 7, finite)

  def top1(self, rate, _, batches):
    return rate / 2 if batches == 'choose' else 1 - rate


class _State:
  def __init__(self, *averages):
    self.ema_params, self.ema_network_state = averages


class _Named(str):
  def batches(self):
    return str(self)


def fake(monkeypatch):
  """Puts in trainers that need no time; returns pictures for them, and what was tried."""
  trainer = Ending()
  monkeypatch.setattr(study, '_trainer', lambda *_: trainer)
  train = pictures.Part(np.zeros((4, 1, 1, 3)), np.zeros(4))
  return pictures.Pictures(10, train, _Named('choose'), _Named('test')), trainer.tried


def test_the_rate_is_chosen_by_what_was_kept_from_training(tmp_path, monkeypatch):
  found, tried = fake(monkeypatch)
  arms = [study.Arm(label='a', network='NF', clipping=0.5)]
  grid = study.Study(arms=arms, rates=(0.1, 0.4, 2.0), pictures=4, epochs=1.0)
  rows = study.measure(grid, found, Rows(tmp_path / 'a.json', {}))
  # A run that broke is at chance, and 0.4 has more right than 0.1 where it is chosen by.
  assert tried == [(0.1, 0, 0.5), (0.4, 0, 0.5), (2.0, 0, 0.5), (0.4, 1, 0.5), (0.4, 2, 0.5)]
  assert len(rows) == grid.runs == 5
  assert (rows[2]['test'], rows[2]['finite']) == (0.1, False)
  best = study.best_runs(rows, label='a')
  assert [(row['seed'], row['test']) for row in best] == [(0, 0.6), (1, 0.6), (2, 0.6)]


@pytest.mark.parametrize('quick', [False, True], ids=['whole', 'quick'])
@pytest.mark.parametrize('name', [name for name, claim in CLAIMS.items() if claim.study])
def test_grids_of_every_claim_can_be_drawn(tmp_path, monkeypatch, name, quick):
  found, tried = fake(monkeypatch)
  claim = CLAIMS[name]
  signal = {'variance': [1.0, 2.0], 'squared_mean': [0.1, 0.1]}
  measurements = [(key, lambda: signal) for key, _ in claim.measurements(found, quick)]
  claim = dataclasses.replace(claim, measurements=lambda *_: measurements)
  rows = claim.run(found, Rows(tmp_path / 'a.json', {}), quick=quick)
  grid = claim.quick if quick else claim.study
  assert len(tried) == grid.runs == len(rows) - len(measurements)
  claim.draw(rows).savefig(tmp_path / 'a.png')
  said = claim.say(rows)
  assert len(said) == len(grid.arms)
  assert all('%' in line for line in said)


def test_pictures_to_choose_by_are_not_trained_on():
  found = pictures.load('digits', 600)
  assert found.num_classes == 10
  assert [len(part.labels) for part in found[1:]] == [600, 100, 360]
  assert found.train.images.shape == (600, 16, 16, 3)
  assert abs(found.train.images.mean()) < 1e-3
  assert abs(found.train.images.std() - 1) < 1e-3
  trained = {image.tobytes() for image in found.train.images}
  assert not trained & {image.tobytes() for image in found.choose.images}
  batches = found.test.batches()
  assert [batch.mask.sum() for batch in batches] == [360]
  assert len(pictures.load('digits', 10**6).train.labels) == 1437 - 1437 // 7


def test_one_program_trains_at_every_rate_and_clipping():
  traced = []

  def linear(images, is_training):
    traced.append(len(images))
    return {'logits': hk.Linear(3, name='linear')(images.reshape(len(images), -1))}

  network = hk.transform_with_state(linear)
  settings = StepSettings(schedule=lambda step: 1.0, clipping=None)

  def sgd(rate, clipping):
    return optax.chain(optim.nfnet_sgd(1.0, clipping=clipping, classifier=''), optax.scale(rate))

  sizes = {'batch': 4, 'total_steps': 3, 'image_size': 2}
  knobs = {'rate': 1.0, 'clipping': 0.1}
  trainer = training.Trainer(network, sgd, settings, knobs=knobs, **sizes)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(8, 2, 2, 3)).astype(np.float32)
  labels = rng.integers(0, 3, 8).astype(np.int32)

  def trained(rate, clipping, seed=0):
    return trainer.run({'rate': rate, 'clipping': clipping}, seed, images, labels)

  start = steps.init_state(network, trainer.optimizer, 0, 2)
  jax.tree.map(np.testing.assert_array_equal, trained(0.0, 0.1).state.params, start.params)
  programs = traced.count(4)
  clipped = trained(0.5, 0.02).state.params
  ended = trained(np.inf, 0.1)
  assert (ended.finite, ended.steps) == (False, 2)  # the second step meets what the first one left
  assert traced.count(4) == programs > 0
  other = training.Trainer(
    network,
    lambda rate: optax.chain(optim.nfnet_sgd(0.5, clipping=0.02, classifier=''), optax.scale(rate)),
    settings,
    knobs={'rate': 1.0},
    **sizes,
  )
  same = other.run({'rate': 1.0}, 0, images, labels).state.params
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)  # noqa: E731
  jax.tree.map(close, clipped, same)


@pytest.mark.parametrize('recipe', ['mixup', 'mixup_cutmix'])
def test_pictures_are_mixed_with_others_and_so_are_their_labels(recipe):
  rng = np.random.default_rng(0)
  labels = np.arange(4, dtype=np.int32)
  images = np.float32(np.ones((4, 8, 8, 3)) * labels[:, None, None, None])  # full of the label
  batch = pictures.make_batch(images, labels)
  mixed = training._mixed(batch, images[::-1], labels[::-1], recipe, rng)
  np.testing.assert_array_equal(mixed.labels, [labels])
  np.testing.assert_array_equal(mixed.mix_labels, [labels[::-1]])
  # The mean of the pixels says how much of which picture there is.
  expected = mixed.mix_ratio * labels + (1 - mixed.mix_ratio) * labels[::-1]
  np.testing.assert_allclose(mixed.images.mean((2, 3, 4)), expected, rtol=1e-5)
  assert np.any(mixed.mix_ratio < 1)
  whole = [set(np.unique(image)) <= {0.0, 1.0, 2.0, 3.0} for image in mixed.images[0]]
  assert whole[1::2] == [recipe == 'mixup_cutmix'] * 2  # pasted, not averaged


def test_every_claim_has_a_section_with_its_figure_rows_and_command():
  text = (ROOT / 'docs/claims.md').read_text()
  for name in PUBLISHED:
    assert f'(figures/claims/{name}.png)' in text, name
    assert f'(figures/claims/{name}.json)' in text, name
    assert f'scripts/reproduce.py {name} ' in text, name
    results = json.loads((FIGURES / f'{name}.json').read_text())
    assert results['arguments']['claim'] == name
    assert not results['arguments']['quick']


@pytest.mark.parametrize('name', PUBLISHED)
def test_figures_in_the_docs_can_be_drawn_from_their_rows(tmp_path, name):
  rows = json.loads((FIGURES / f'{name}.json').read_text())['rows']
  CLAIMS[name].draw(rows).savefig(tmp_path / 'a.png')


@pytest.mark.slow
def test_small_batches_in_minutes(tmp_path, run_script):
  done = run_script('reproduce', 'small_batch', '--quick', '--out', tmp_path)  # which may take five
  assert done.returncode == 0, done.stderr
  rows = json.loads((tmp_path / 'small_batch.json').read_text())['rows']
  assert len(rows) == CLAIMS['small_batch'].quick.runs
  assert min(row['test'] for row in rows) > 0.5
  assert (tmp_path / 'small_batch.png').stat().st_size > 5_000
  again = run_script('reproduce', 'small_batch', '--quick', '--out', tmp_path)
  assert again.returncode == 0
  assert 'runs/min' not in again.stdout  # nothing is trained again
