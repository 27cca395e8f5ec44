"""The curves of a run: what `metrics.csv` holds, drawn."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.reporting import plot_style, recording

# From dark to light, as viridis, with the depth of the stage.
_STAGES = ('#440154', '#3B528B', '#21918C', '#5EC962', '#A8C526', '#C9A800')
_STYLES = ('-', '--', '-.', ':', '-', '--')


class Line(NamedTuple):
  """One curve: the metric's name, what the legend calls it, and how it is drawn."""

  metric: str
  label: str
  colour: str = plot_style.BLUE
  style: str = '-'


class Panel(NamedTuple):
  """One set of axes: quantity and unit for its label, its curves, and how to draw their values."""

  label: str
  lines: tuple[Line, ...]
  factor: float = 1.0  # on the values
  from_zero: bool = False  # the vertical axis begins at 0


PANELS = (
  Panel('training loss (nats)', (Line('train/loss', 'loss'),)),
  Panel('learning rate', (Line('train/learning_rate', 'learning rate'),), from_zero=True),
  Panel(
    'test top-1 accuracy (%)',
    (
      Line('test/top1', 'raw parameters', plot_style.BLUE, '-'),
      Line('test/top1_ema', 'moving average', plot_style.VERMILION, '--'),
    ),
    factor=100.0,
  ),
  Panel(
    'clipped units (%)',
    (
      Line('train/clipped_share/weights', 'weights', plot_style.BLUE, '-'),
      Line('train/clipped_share/gains_and_biases', 'gains and biases', plot_style.GREEN, '-.'),
    ),
    factor=100.0,
    from_zero=True,
  ),
  Panel(
    'clipped units by stage (%)',
    (
      Line('train/clipped_share/stem', 'stem', plot_style.BLACK, ':'),
      *(
        Line(f'train/clipped_share/stage_{i}', f'stage {i}', colour, style)
        for i, (colour, style) in enumerate(zip(_STAGES, _STYLES, strict=True), start=1)
      ),
      Line('train/clipped_share/head', 'head', plot_style.VERMILION, '-.'),
    ),
    factor=100.0,
    from_zero=True,
  ),
  Panel('gradient norm', (Line('train/gradient_norm', 'before clipping'),), from_zero=True),
)


def draw_curves(
  series: Mapping[str, recording.Series], *, steps_per_epoch: float | None = None, title: str = ''
) -> Figure:
  """Draws the panels of `PANELS` on a figure of 15 by 7 inches, without any display.

  Args:
    series: metric name -> its points; a missing one leaves its panel with a note.
    steps_per_epoch: draws over epochs; None draws over steps.
    title: a line above all.
  """
  figure = Figure(figsize=(15, 7), dpi=120, layout='constrained')
  figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
  per_unit = steps_per_epoch or 1.0
  last = max((int(s.steps[-1]) for s in series.values() if len(s.steps)), default=0) / per_unit
  for panel, axes in zip(PANELS, figure.subplots(2, 3).flat, strict=True):
    _draw_panel(axes, panel, series, per_unit)
    axes.set_xlabel('epoch' if steps_per_epoch else 'step (parameter updates)')
    axes.set_xlim(-0.01 * last, 1.02 * last or 1.0)
    axes.xaxis.set_major_locator(
      MaxNLocator(nbins=8, steps=[1, 2, 5, 10], integer=not steps_per_epoch)
    )
  if title:
    figure.suptitle(plot_style.plain(title), parse_math=False)
  return figure


def _draw_panel(
  axes: Axes, panel: Panel, series: Mapping[str, recording.Series], per_unit: float
) -> None:
  """Draws one panel; the curve's last value stands in the legend."""
  drawn = 0
  for line in panel.lines:
    found = series.get(line.metric)
    finite = np.isfinite(found.values) if found is not None else np.zeros(0, bool)
    if not finite.any():
      continue
    # A NaN breaks the curve, which shows where a run diverged.
    values = np.where(finite, found.values * panel.factor, np.nan)
    axes.plot(
      found.steps / per_unit,
      values,
      line.style,
      color=line.colour,
      linewidth=1.6,
      marker='o' if len(values) <= 40 else None,  # few points, or one, would not show as a line
      markersize=3.5,
      label=f'{line.label} (last: {values[finite][-1]:.4g})',
    )
    drawn += 1
  axes.set_ylabel(panel.label)
  plot_style.tidy(axes)
  if drawn:
    axes.margins(y=0.08)
    if panel.from_zero:
      axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize='small')
  else:
    axes.set_yticks([])
    axes.text(0.5, 0.5, 'not recorded', transform=axes.transAxes, ha='center', color='0.45')
