"""The curves of a run: a picture whatever was recorded."""

import math

import numpy as np
import pytest

from experiments.reporting.curves import PANELS, draw_curves
from experiments.reporting.recording import MetricWriter, Series, read_csv

NAMES = [line.metric for panel in PANELS for line in panel.lines]


def _write_metrics(workdir, steps, names=NAMES):
  with MetricWriter(workdir) as writer:
    for step in steps:
      writer.write(step, {name: 1 / (1 + step) for name in names})


def _curves(figure):
  return [line for axes in figure.axes for line in axes.lines]


def test_what_is_drawn(tmp_path):
  _write_metrics(tmp_path, [0, 25, 50])
  figure = draw_curves(read_csv(tmp_path), steps_per_epoch=25)
  assert [axes.get_ylabel() for axes in figure.axes] == [panel.label for panel in PANELS]
  assert {axes.get_xlabel() for axes in figure.axes} == {'epoch'}
  assert len(_curves(figure)) == len(NAMES)
  np.testing.assert_allclose(_curves(figure)[0].get_xdata(), [0, 1, 2])
  np.testing.assert_allclose(_curves(figure)[2].get_ydata(), [100, 100 / 26, 100 / 51], rtol=1e-6)
  assert draw_curves(read_csv(tmp_path)).axes[0].get_xlabel() == 'step (parameter updates)'


@pytest.mark.parametrize('names', [[], ['train/loss'], ['test/top1_ema', 'unrelated']])
def test_missing_series_and_single_points(tmp_path, names):
  _write_metrics(tmp_path, [3], names)
  figure = draw_curves(read_csv(tmp_path))
  figure.savefig(tmp_path / 'curves.png')
  assert (tmp_path / 'curves.png').stat().st_size > 1000
  assert len(_curves(figure)) == len(set(names) & set(NAMES))
  assert all(line.get_marker() == 'o' for line in _curves(figure))
  notes = sum(text.get_text() == 'not recorded' for axes in figure.axes for text in axes.texts)
  assert notes == len(PANELS) - len(_curves(figure))


def test_values_that_are_not_finite_leave_a_gap():
  steps = np.arange(3)
  series = {
    'train/loss': Series(steps, np.array([1.0, math.inf, 3.0])),
    'train/learning_rate': Series(steps, np.full(3, math.nan)),
  }
  (curve,) = _curves(draw_curves(series))
  np.testing.assert_array_equal(curve.get_ydata(), [1.0, math.nan, 3.0])
