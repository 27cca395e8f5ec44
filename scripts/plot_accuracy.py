"""Draws accuracy against training latency and against multiply-adds.

python scripts/plot_accuracy.py --out docs/figures
python scripts/plot_accuracy.py --out docs/figures --steps steps.json

Accuracies and step times are the published ones, from docs/figures/published.json, which names the
source of each; multiply-adds are counted here, from the traced program (nfnets.flops). The file of
--steps adds step times of this library: {"F0": {"ms": 12.3, "kind": "measured" or "estimated",
"hardware": "...", "command": "..."}, ...}; they are drawn at the model's published accuracy.
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
KINDS = ('measured', 'estimated')
STYLES = {
  'NFNet': (plot_style.BLUE, 'o', '-'),
  'NFNet with SAM': (plot_style.BLUE, '*', ''),
  'NFNet with BatchNorm': (plot_style.ORANGE, 's', '--'),
  'EfficientNet': (plot_style.VERMILION, '^', ''),
  'ResNet': (plot_style.GREEN, 'D', ''),
}
_ABOVE_LEFT, _BELOW_RIGHT = (-6, 6, 'right'), (7, -11, 'left')
Points = Sequence[Mapping[str, Any]]


def read_steps(path: pathlib.Path, points: Points) -> dict[str, dict[str, Any]]:
  """Returns model -> step time of this library.

  Raises:
    ValueError: an entry lacks a field, is of another kind, or no accuracy is published for it.
  """
  steps = json.loads(path.read_text(encoding='utf-8'))
  known = {point['model'] for point in points if 'model' in point}
  for model, step in steps.items():
    if model not in known:
      raise ValueError(f'{path}: no accuracy of {model!r} is published; there are {sorted(known)}.')
    missing = [field for field in ('ms', 'kind', 'hardware', 'command') if field not in step]
    if missing:
      raise ValueError(f'{path}: {model} lacks {" and ".join(missing)}.')
    if step['kind'] not in KINDS:
      raise ValueError(f'{path}: the kind of {model} is {step["kind"]!r}, not one of {KINDS}.')
  return steps


@platforms.explained()
def count(points: Points) -> dict[str, float]:
  """Returns name -> multiply-adds of one picture, in billions, of the points with a model."""
  return {
    point['name']: flops.model_multiply_adds(point['model'], point['px']) / 1e9
    for point in points
    if 'model' in point
  }


def draw_latency(points: Points, steps: Mapping[str, Mapping[str, Any]]) -> Figure:
  """Draws top-1 over the published step times, and over this library's if there are any."""
  panels = [
    ('published: TPUv3, bfloat16, 32 cores, 32 images a core', 'tpuv3_ms'),
    ('published: V100, float16, 32 images', 'v100_ms'),
  ]
  figure = Figure(figsize=(5.6 * (3 if steps else 2), 4.8), dpi=110, layout='constrained')
  grid = figure.subplots(1, 3 if steps else 2, sharey=True)
  for axes, (title, field) in zip(grid, panels, strict=False):
    _scatter(axes, [(p, p[field]) for p in points if field in p])
    _dress(axes, title, 'training step, ms')
  if steps:
    by_model = {point.get('model'): point for point in points}
    for kind, fill in (('measured', plot_style.BLUE), ('estimated', 'white')):
      found = [(by_model[m], step['ms']) for m, step in steps.items() if step['kind'] == kind]
      if not found:
        continue
      grid[2].plot(
        [ms for _, ms in found],
        [point['top1'] for point, _ in found],
        'o' if kind == 'measured' else 'h',
        markerfacecolor=fill,
        markeredgecolor=plot_style.BLUE,
        markersize=8,
        linestyle='',
        label=kind,
      )
      for point, ms in found:
        _name(grid[2], point['name'], ms, point['top1'], _ABOVE_LEFT)
    hardware = ' / '.join(dict.fromkeys(step['hardware'] for step in steps.values()))
    _dress(grid[2], f'this library: {hardware}', 'training step, ms')
    low, high = grid[2].get_xlim()
    grid[2].set_xlim(min(low, (low * high) ** 0.5 / 4), max(high, (low * high) ** 0.5 * 4))
    grid[2].legend(frameon=False, loc='lower right')
  grid[0].set_ylabel('published ImageNet top-1 accuracy, %')
  handles, labels = grid[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside upper center', ncols=len(labels), frameon=False)
  return figure


def draw_flops(points: Points, billions: Mapping[str, float]) -> Figure:
  """Draws top-1 over multiply-adds."""
  figure = Figure(figsize=(6.4, 4.8), dpi=110, layout='constrained')
  axes = figure.subplots()
  _scatter(axes, [(p, billions[p['name']]) for p in points if p['name'] in billions])
  _dress(axes, '', 'multiply-adds of one picture at test size, billions (counted by nfnets.flops)')
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
  parser.add_argument('--steps', type=pathlib.Path, metavar='FILE', help='step times from here')
  options = parser.parse_args(argv)
  try:
    points = json.loads(options.published.read_text(encoding='utf-8'))['points']
    steps = read_steps(options.steps, points) if options.steps else {}
    if options.out.exists() and not options.out.is_dir():
      raise ConfigError(f'--out={options.out} is no folder: name one, which may be new')
    options.out.mkdir(parents=True, exist_ok=True)
    billions = count(points)
    plot_style.save(draw_latency(points, steps), options.out / 'accuracy_latency.png')
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
