"""What the figures of the claims have in common."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reporting import plot_style
from scripts.reproducing.rows import Row
from scripts.reproducing.study import best_runs

_MARKERS = 'os^Dv'
_LINES = ('-', '--', '-.', ':')
STYLES = [
  {'color': colour, 'marker': _MARKERS[i % len(_MARKERS)], 'linestyle': _LINES[i % len(_LINES)]}
  for i, colour in enumerate(plot_style.PALETTE)
]
ACCURACY = 'test top-1 accuracy (%)'


def percent(rows: Sequence[Row]) -> np.ndarray:
  """The test accuracies of rows."""
  return 100 * np.array([row['test'] for row in rows])


def mean_and_range(rows: Sequence[Row]) -> str:
  """The same in words, with the lowest and the highest."""
  values = percent(rows)
  return f'{values.mean():.1f} % ({values.min():.1f} to {values.max():.1f})'


def labels_of(rows: Sequence[Row]) -> list[str]:
  """The methods, in the order of the rows."""
  return list(dict.fromkeys(row['label'] for row in rows if 'label' in row))


def panels(count: int, *, width: float = 4.6, height: float = 3.8) -> tuple[Figure, list[Axes]]:
  """Returns a figure with so many panels, two in a row: pages are no wider."""
  columns = min(count, 2)
  rows = math.ceil(count / columns)
  figure = Figure(figsize=(width * columns, height * rows), dpi=110, layout='constrained')
  return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def best_over(axes: Axes, rows: Sequence[Row], field: str, title: str) -> None:
  """Draws the accuracy of each method at its best learning rate over a field of its settings.

  Points are means of the seeds; bars reach from the lowest to the highest.
  """
  for label, style in zip(labels_of(rows), STYLES, strict=False):
    own = [row for row in rows if row['label'] == label]
    xs = sorted({row[field] for row in own})
    points = [percent(best_runs(own, **{field: x})) for x in xs]
    means = np.array([p.mean() for p in points])
    spread = [means - [p.min() for p in points], [p.max() for p in points] - means]
    axes.errorbar(xs, means, spread, capsize=3, label=label, **style)
  log_axis(axes, {row[field] for row in rows})
  axes.set_xlabel(title)
  axes.set_ylabel(ACCURACY)
  plot_style.tidy(axes)


def first_seed_over_rate(axes: Axes, rows: Sequence[Row]) -> None:
  """Draws the accuracy of each method over the learning rate, of the seed that tried them all."""
  for label, style in zip(labels_of(rows), STYLES, strict=False):
    own = [row for row in rows if row['label'] == label and row['seed'] == 0]
    own.sort(key=lambda row: row['rate'])
    axes.plot([row['rate'] for row in own], percent(own), label=label, **style)
  log_axis(axes, {row['rate'] for row in rows})
  axes.set_xlabel('peak learning rate')
  axes.set_ylabel(ACCURACY)
  plot_style.tidy(axes)


def log_axis(axes: Axes, values: Any) -> None:
  """Gives the horizontal axis the ticks that were measured, on a logarithmic scale."""
  values = sorted(values)
  axes.set_xscale('log', base=2)
  axes.set_xticks(values, [f'{value:g}' for value in values])
  axes.minorticks_off()


def legend_above(figure: Figure, axes: Axes) -> None:
  """One legend for all panels."""
  handles, labels = axes.get_legend_handles_labels()
  columns = math.ceil(len(labels) / math.ceil(len(labels) / 3))  # three at most fit in a row
  figure.legend(handles, labels, loc='outside upper center', ncols=columns, frameon=False)
