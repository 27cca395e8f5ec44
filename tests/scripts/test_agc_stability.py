"""What the stability figure says of its numbers."""

import json
import math

import pytest


@pytest.fixture
def agc_stability(load_script):
  return load_script('agc_stability')


def row(batch, rate, clipping, top1):
  return {'batch': batch, 'rate': rate, 'clipping': clipping, 'top1': top1, 'epochs': 1}


ROWS = [
  row(64, 0.1, 0.16, 0.4),  # too slow to train
  row(64, 0.2, 0.16, 0.9),
  row(64, 0.4, 0.16, 0.8),
  row(64, 0.8, 0.16, 0.1),
  row(64, 0.1, 0.0, 0.7),
  row(64, 0.2, 0.0, 0.1),
  row(128, 0.1, 0.0, 0.1),
]


def test_the_largest_stable_rate_is_the_largest_that_trained(agc_stability):
  assert agc_stability.largest_stable(ROWS, 64, clipped=True) == 0.4
  assert agc_stability.largest_stable(ROWS, 64, clipped=False) == 0.1
  assert math.isnan(agc_stability.largest_stable(ROWS, 128, clipped=False))


def test_every_batch_size_has_a_panel_with_and_without(agc_stability):
  figure = agc_stability.draw([r for r in ROWS if r['batch'] == 64])
  panel, last = figure.axes
  assert [len(line.get_xdata()) for line in panel.get_lines()] == [4, 2]
  assert [list(line.get_ydata()) for line in last.get_lines()] == [[0.4], [0.1]]


def test_results_of_other_arguments_are_not_used(agc_stability, tmp_path, monkeypatch):
  class Trainer:
    described = None

    def __init__(self, batch, clipping, epochs):
      self.made_of = batch, clipping, epochs

    def run(self, rate):
      runs.append((*self.made_of, rate))
      return {'top1': 0.5, 'steps': 1}

  runs, path = [], tmp_path / 'a.json'
  monkeypatch.setattr(agc_stability, 'Trainer', Trainer)
  monkeypatch.setattr(agc_stability, 'preload', lambda run: ())
  path.write_text(json.dumps(ROWS))
  rows = agc_stability.measure(path, [64], [0.1], 1.0, [0.16, 0.32])
  assert runs == [(64, 0.32, 1.0, 0.1)]
  assert [(r['clipping'], r['top1']) for r in rows] == [(0.16, 0.4), (0.32, 0.5)]
  rows = agc_stability.measure(path, [64], [0.1], 2.0, [0.16])
  assert runs[1:] == [(64, 0.16, 2.0, 0.1)]
  assert [(r['epochs'], r['top1']) for r in rows] == [(2.0, 0.5)]
  assert len(json.loads(path.read_text())) == len(ROWS) + 2  # what is there is kept


@pytest.mark.parametrize('content', ['{"mine": 1}', '[1]', '[{"batch": 1}]', 'text'])
def test_another_programs_file_is_not_written_over(agc_stability, tmp_path, content):
  path = tmp_path / 'a.json'
  path.write_text(content)
  with pytest.raises(ValueError, match=r'a\.json, where the numbers would go, is no file of this'):
    agc_stability.measure(path, [64], [0.1], 1.0)
  assert path.read_text() == content
