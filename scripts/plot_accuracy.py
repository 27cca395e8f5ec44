"""Draws accuracy against the time of a training step and against multiply-adds.

python scripts/plot_accuracy.py --out docs/figures

Accuracies and step times are the published ones, from docs/figures/published.json, which names the
source of each; multiply-adds are counted here, from the traced program (nfnets.flops).
Writes accuracy_latency.png and accuracy_flops.png into the folder.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from experiments.reporting import plot_style
from experiments.runtime import platforms
from experiments.runtime.errors import ConfigError
from nfnets import flops

PUBLISHED = pathlib.Path(__file__).parents[1] / 'docs/figures/published.json'
STYLES = {
  'NFNet': (plot_style.BLUE, 'o', '-'),
  'NFNet with SAM': (plot_style.BLUE, '*', ''),
  'NFNet with BatchNorm': (plot_style.ORANGE, 's', '--'),
  'EfficientNet': (plot_style.VERMILION, '^', ''),
  'ResNet': (plot_style.GREEN, 'D', ''),
}
_SIZE = (5.2, 4.0)  # inches, in which the text is legible on a phone
_ABOVE_LEFT, _BELOW_RIGHT = (-6, 6, 'right'), (7, -11, 'left')
Points = Sequence[Mapping[str, Any]]


@platforms.explained()
def count(points: Points) -> dict[str, float]:
  """Returns name -> multiply-adds of one picture, in billions, of the points with a model."""
  return {
    point['name']: flops.model_multiply_adds(point['model'], point['px']) / 1e9
    for point in points
    if 'model' in point
  }


def draw_latency(points: Points) -> Figure:
  """Draws top-1 over the published step times on TPUv3."""
  figure = Figure(figsize=_SIZE, dpi=160, layout='constrained')
  axes = figure.subplots()
  _scatter(axes, [(p, p['tpuv3_ms']) for p in points if 'tpuv3_ms' in p])
  _dress(axes, '', 'training step on TPUv3, 32 images a core in bfloat16, ms')
  axes.set_ylabel('ImageNet top-1 accuracy, %')
  axes.legend(frameon=False, loc='lower right')
  return figure


def draw_flops(points: Points, billions: Mapping[str, float]) -> Figure:
  """Draws top-1 over multiply-adds."""
  figure = Figure(figsize=_SIZE, dpi=160, layout='constrained')
  axes = figure.subplots()
  _scatter(axes, [(p, billions[p['name']]) for p in points if p['name'] in billions])
  _dress(axes, '', 'multiply-adds of one picture at its test size, billions')
  axes.set_ylabel('published ImageNet top-1 accuracy, %')
  axes.legend(frameon=False, loc='lower right')
  return figure


def _scatter(axes: Axes, placed: Sequence[tuple[Mapping[str, Any], float]]) -> None:
  """Draws the series of points, each at its x."""
  for series, (colour, marker, line) in STYLES.items():
    found = [(point, x) for point, x in placed if point['series'] == series]
    if not found:
      continue
    axes.plot(
      [x for _, x in found],
      [point['top1'] for point, _ in found],
      marker=marker,
      markersize=11 if marker == '*' else 7,
      linestyle=line or 'none',
      color=colour,
      label=series,
    )
    below = series in ('NFNet with BatchNorm', 'EfficientNet', 'ResNet')
    for point, x in found:
      _name(axes, point['name'], x, point['top1'], _BELOW_RIGHT if below else _ABOVE_LEFT)


def _name(axes: Axes, name: str, x: float, y: float, place: tuple[int, int, str]) -> None:
  axes.annotate(
    name, (x, y), place[:2], textcoords='offset points', ha=place[2], fontsize='small', zorder=4
  )


def _dress(axes: Axes, title: str, label: str) -> None:
  axes.set_title(title, fontsize='medium')
  axes.set_xlabel(label)
  axes.set_xscale('log')
  axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axes.xaxis.set_major_formatter('{x:g}')
  axes.xaxis.set_minor_locator(NullLocator())
  axes.margins(x=0.14, y=0.1)
  plot_style.tidy(axes)


def main(argv: list[str] | None = None) -> int:
  """Draws both figures; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('.'), metavar='DIR')
  parser.add_argument('--published', type=pathlib.Path, default=PUBLISHED, metavar='FILE')
  options = parser.parse_args(argv)
  try:
    points = json.loads(options.published.read_text(encoding='utf-8'))['points']
    if options.out.exists() and not options.out.is_dir():
      raise ConfigError(f'--out={options.out} is no folder: name one, which may be new')
    options.out.mkdir(parents=True, exist_ok=True)
    billions = count(points)
    plot_style.save(draw_latency(points), options.out / 'accuracy_latency.png')
    plot_style.save(draw_flops(points, billions), options.out / 'accuracy_flops.png')
  except (ValueError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  for point in points:
    if point['name'] in billions:
      print(f'{point["name"]:10s} {point["px"]:4d} px  {billions[point["name"]]:8.2f} billion')
  print(f'Wrote {options.out}/accuracy_latency.png and accuracy_flops.png.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
