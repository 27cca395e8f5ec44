"""What the stability figure says of its numbers."""

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
