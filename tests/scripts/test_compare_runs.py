"""Several runs in one picture."""

import numpy as np
import pytest

from experiments.reporting import recording


@pytest.fixture
def compare_runs(load_script):
  return load_script('compare_runs')


def write_run(folder, accuracies):
  with recording.MetricWriter(folder) as writer:
    for step, accuracy in enumerate(accuracies, start=1):
      writer.write(10 * step, {'train/loss': 1 / step, 'test/top1_ema': accuracy})
  return folder


def test_one_line_for_each_run_and_metric(tmp_path, compare_runs):
  a = write_run(tmp_path / 'a', [0.25, 0.5])
  b = write_run(tmp_path / 'b', [0.5, 0.75, 1.0])
  figure = compare_runs.draw(compare_runs.read_runs([a, b]))
  loss, accuracy, norm, _ = figure.axes
  assert [line.get_label() for line in loss.get_lines()] == ['a', 'b']
  np.testing.assert_array_equal(accuracy.get_lines()[1].get_xdata(), [10, 20, 30])
  np.testing.assert_array_equal(accuracy.get_lines()[1].get_ydata(), [50, 75, 100])
  assert accuracy.get_ylabel() == 'test/top1_ema (%)'
  assert not norm.get_lines()
  assert norm.texts[0].get_text() == 'not recorded'
  assert len({axes.get_xlim() for axes in figure.axes}) == 1  # the same steps above each other
  smooth = compare_runs.draw(compare_runs.read_runs([b]), ['test/top1_ema'], smoothing=2)
  np.testing.assert_array_equal(smooth.axes[0].get_lines()[0].get_ydata(), [50, 62.5, 87.5])


@pytest.mark.parametrize('name', ['train/clipped_share/stage_1', 'train/top1'])
def test_shares_are_percentages(compare_runs, name):
  runs = {'a': {name: recording.Series(np.array([1, 2]), np.array([0.25, 0.5]))}}
  (axes,) = compare_runs.draw(runs, [name]).axes
  assert axes.get_ylabel() == f'{name} (%)'
  np.testing.assert_array_equal(axes.get_lines()[0].get_ydata(), [25, 50])


def test_the_command_writes_the_picture_and_a_table(tmp_path, capsys, compare_runs):
  one = write_run(tmp_path / 'one/digits', [0.5])
  two = write_run(tmp_path / 'two/digits', [0.75])
  out = tmp_path / 'compare.png'
  assert compare_runs.main([str(one), str(two), '--out', str(out)]) == 0
  assert out.read_bytes().startswith(b'\x89PNG')
  text = capsys.readouterr().out
  assert 'one/digits' in text
  assert '0.75' in text


def test_what_cannot_be_compared_is_one_sentence(tmp_path, capsys, compare_runs):
  run = write_run(tmp_path / 'run', [0.5])
  (tmp_path / 'empty').mkdir()
  for arguments, sentence in (
    ([tmp_path / 'empty'], 'has no metrics.csv: name the --workdir of a run'),
    ([run, run], 'a directory is named twice'),
    ([run, '--metrics', 'train/lass'], "no run has the metric 'train/lass'; there are"),
    ([run, '--smoothing', '0'], '--smoothing must be at least 1'),
  ):
    assert compare_runs.main(list(map(str, arguments))) == 1
    assert sentence in capsys.readouterr().err
