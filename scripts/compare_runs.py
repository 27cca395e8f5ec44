"""Draws the curves of several runs together.

nfnets compare-runs runs/a runs/b --out compare.png

One panel each for training loss, test accuracy, gradient norm and seconds a step (or the metrics
named with --metrics), one line for each run, and a table of the final figures on the console.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from experiments.reporting import plot_style, recording
from experiments.runtime import output_files

METRICS = ('train/loss', 'test/top1_ema', 'train/gradient_norm', 'train/seconds_per_step')
# After eight runs the line styles change.
_COLOURS = (*plot_style.PALETTE, '#8C6D31')
_STYLES = ('-', '--', ':', '-.')
_SHARES = ('top1', 'top5', 'clipped_share', 'data_wait_share')  # drawn as percentages
_LOGARITHMIC = ('train/loss', 'train/gradient_norm')

Runs = Mapping[str, Mapping[str, recording.Series]]


def read_runs(directories: Sequence[pathlib.Path]) -> dict[str, dict[str, recording.Series]]:
  """Returns label -> metric name -> series, the labels as short as they can be told apart by.

  Raises:
    ValueError: a directory is no run's, or is named twice.
  """
  if len({directory.resolve() for directory in directories}) < len(directories):
    raise ValueError('a directory is named twice: name every run once.')
  runs = {}
  for label, directory in zip(_labels(directories), directories, strict=True):
    if not (directory / recording.CSV_NAME).is_file():
      raise ValueError(
        f'{directory} has no {recording.CSV_NAME}: name the --workdir of a run, such as '
        'runs/digits.'
      )
    runs[label] = recording.read_csv(directory)
  return runs


def draw(runs: Runs, names: Sequence[str] = METRICS, *, smoothing: int = 1) -> Figure:
  """Draws one panel for each metric and one line for each run, over the steps.

  Args:
    runs: as from `read_runs`.
    names: of metrics.
    smoothing: each point is the mean of so many recorded ones up to it.
  """
  columns = min(2, len(names))
  rows = math.ceil(len(names) / columns)
  figure = Figure(figsize=(5.5 * columns, 3.4 * rows + 0.5), dpi=110, layout='constrained')
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes, name in zip(grid.flat, names, strict=False):
    _draw_panel(axes, name, runs, smoothing)
  for axes in list(grid.flat)[len(names) :]:
    axes.set_axis_off()
  last = max((line.get_xdata()[-1] for axes in grid.flat for line in axes.get_lines()), default=1)
  for axes in grid.flat:
    axes.set_xlim(-0.01 * last, 1.02 * last)
  handles = {}
  for axes in grid.flat:
    for line in axes.get_lines():
      handles.setdefault(line.get_label(), line)
  legend = figure.legend(
    handles.values(), handles.keys(), loc='outside upper center', ncols=min(4, len(runs) or 1),
    frameon=False,
  )  # fmt: skip
  for text in legend.get_texts():  # names of folders
    text.set_parse_math(False)
  return figure


def table(runs: Runs, names: Sequence[str] = METRICS) -> str:
  """Formats the last value of each metric of each run."""
  width = max(len(label) for label in runs)
  lines = ['  '.join([' ' * width, f'{"step":>7s}', *(f'{name:>24s}' for name in names)])]
  for label, series in runs.items():
    last = max((int(s.steps[-1]) for s in series.values() if len(s.steps)), default=0)
    cells = [f'{_last(series.get(name)):>24s}' for name in names]
    lines.append('  '.join([f'{label:{width}s}', f'{last:7d}', *cells]))
  return '\n'.join(lines)


def _draw_panel(axes: Axes, name: str, runs: Runs, smoothing: int) -> None:
  percent = any(part.startswith(_SHARES) for part in name.split('/'))
  for place, (label, series) in enumerate(runs.items()):
    found = series.get(name)
    if found is None or not np.isfinite(found.values).any():
      continue
    values = np.where(np.isfinite(found.values), found.values, np.nan) * (100 if percent else 1)
    axes.plot(
      found.steps,
      _smooth(values, smoothing),
      _STYLES[place // len(_COLOURS) % len(_STYLES)],
      color=_COLOURS[place % len(_COLOURS)],
      label=label,
      linewidth=1.5,
      marker='o' if len(values) <= 30 else None,
      markersize=3,
    )
  axes.set_xlabel('step (parameter updates)')
  axes.set_ylabel(f'{name} (%)' if percent else name)
  plot_style.tidy(axes)
  if not axes.get_lines():
    axes.set_yticks([])
    axes.text(0.5, 0.5, 'not recorded', transform=axes.transAxes, ha='center', color='0.45')
  elif name in _LOGARITHMIC:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
    axes.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    axes.yaxis.set_minor_formatter('{x:g}')


def _smooth(values: np.ndarray, count: int) -> np.ndarray:
  """The mean of up to `count` values, each with those before it; shorter at the beginning."""
  return np.array([np.mean(values[max(0, i + 1 - count) : i + 1]) for i in range(len(values))])


def _last(series: recording.Series | None) -> str:
  return '-' if series is None or not len(series.values) else f'{series.values[-1]:.4g}'


def _labels(directories: Sequence[pathlib.Path]) -> list[str]:
  """The ends of the paths, with as many folders as it takes to tell them apart."""
  paths = [directory.resolve().parts for directory in directories]
  for length in range(1, max(map(len, paths)) + 1):
    labels = ['/'.join(parts[-length:]) for parts in paths]
    if len(set(labels)) == len(labels):
      break
  return labels


def main(argv: list[str] | None = None) -> int:
  """Draws what the arguments say; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('directories', nargs='+', type=pathlib.Path, metavar='DIR')
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('compare.png'))
  parser.add_argument('--metrics', nargs='+', default=list(METRICS), metavar='NAME')
  parser.add_argument('--smoothing', type=int, default=1, help='points that are averaged')
  options = parser.parse_args(argv)
  try:
    output_files.require(options.out, '--out', suffixes=plot_style.SUFFIXES)
    runs = read_runs(options.directories)
    known = sorted({name for series in runs.values() for name in series})
    unknown = [name for name in options.metrics if name not in known]
    if options.metrics != list(METRICS) and unknown:
      raise ValueError(f'no run has the metric {unknown[0]!r}; there are {", ".join(known)}.')
    if options.smoothing < 1:
      raise ValueError(f'--smoothing must be at least 1, got {options.smoothing}.')
    figure = draw(runs, options.metrics, smoothing=options.smoothing)
    plot_style.save(figure, options.out)
  except (ValueError, OSError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  print(table(runs, options.metrics))
  print(f'Wrote {options.out}.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
