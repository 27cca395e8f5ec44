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


def test_every_published_number_has_a_source_and_every_model_exists():
  published = json.loads(PUBLISHED.read_text())
  assert {point['source'] for point in published['points']} == set(published['sources'])
  models = {point['model'] for point in published['points'] if 'model' in point}
  assert models <= set(nfnets.list_models())


def test_published_times_are_drawn(plot_accuracy):
  (axes,) = plot_accuracy.draw_latency(POINTS).axes
  published = [tuple(line.get_xydata()[0]) for line in axes.get_lines()]
  assert published == [(73.3, 83.6), (41.6, 78.6)]


def test_multiply_adds_are_counted(plot_accuracy):
  assert plot_accuracy.count(POINTS[:1])['F0'] == pytest.approx(12.38, abs=0.005)
  (axes,) = plot_accuracy.draw_flops(POINTS, {'F0': 12.4, 'R': 4.1}).axes
  assert [tuple(line.get_xydata()[0]) for line in axes.get_lines()] == [(12.4, 83.6), (4.1, 78.6)]
