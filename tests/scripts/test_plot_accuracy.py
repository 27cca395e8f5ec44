"""scripts/plot_accuracy.py: what is drawn, and that every number names its source."""

import json
import pathlib

import pytest

import nfnets

PUBLISHED = pathlib.Path(__file__).parents[2] / 'docs/figures/published.json'


@pytest.fixture(scope='module')
def plot_accuracy(load_script):
  return load_script('plot_accuracy')


POINTS = [
  {'series': 'NFNet', 'name': 'F0', 'model': 'F0', 'px': 256, 'top1': 83.6, 'tpuv3_ms': 73.3},
  {'series': 'ResNet', 'name': 'R', 'model': 'BN-ResNet-50', 'px': 224, 'top1': 78.6,
   'tpuv3_ms': 41.6, 'v100_ms': 35.3},
]  # fmt: skip
STEP = {'ms': 20.0, 'kind': 'estimated', 'hardware': 'a chip', 'command': 'plan'}


def test_every_published_number_has_a_source_and_every_model_exists():
  published = json.loads(PUBLISHED.read_text())
  assert {point['source'] for point in published['points']} == set(published['sources'])
  models = {point['model'] for point in published['points'] if 'model' in point}
  assert models <= set(nfnets.list_models())


def test_published_measured_and_estimated_are_told_apart(plot_accuracy):
  figure = plot_accuracy.draw_latency(POINTS, {})
  assert [len(axes.get_lines()) for axes in figure.axes] == [2, 1]
  steps = {'F0': STEP, 'BN-ResNet-50': {**STEP, 'kind': 'measured', 'ms': 10.0}}
  *_, own = plot_accuracy.draw_latency(POINTS, steps).axes
  measured, estimated = own.get_lines()
  assert (measured.get_label(), *measured.get_xydata()[0]) == ('measured', 10.0, 78.6)
  assert (estimated.get_label(), *estimated.get_xydata()[0]) == ('estimated', 20.0, 83.6)
  assert measured.get_markerfacecolor() != estimated.get_markerfacecolor()
  assert 'a chip' in own.get_title()


def test_multiply_adds_are_counted(plot_accuracy):
  assert plot_accuracy.count(POINTS[:1])['F0'] == pytest.approx(12.38, abs=0.005)
  (axes,) = plot_accuracy.draw_flops(POINTS, {'F0': 12.4, 'R': 4.1}).axes
  assert [tuple(line.get_xydata()[0]) for line in axes.get_lines()] == [(12.4, 83.6), (4.1, 78.6)]


@pytest.mark.parametrize(
  ('steps', 'sentence'),
  [
    ({'F9': STEP}, "no accuracy of 'F9' is published"),
    ({'F0': {'ms': 1}}, 'F0 lacks kind and hardware and command'),
    ({'F0': {**STEP, 'kind': 'guessed'}}, "'guessed', not one of"),
  ],
)
def test_step_times_that_cannot_be_used_are_one_sentence(
  plot_accuracy, tmp_path, capsys, steps, sentence
):
  path = tmp_path / 'steps.json'
  path.write_text(json.dumps(steps))
  assert plot_accuracy.main(['--out', str(tmp_path), '--steps', str(path)]) == 1
  assert sentence in capsys.readouterr().err
