"""Results as a picture: bars of ratios, or time against batch and image size with its slope."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from experiments.reporting import plot_style
from scripts.benchmarking import scaling, table
from scripts.benchmarking.table import Row

# Colour, marker and, in the bars, hatch.
_STYLES = {
  'ours': (plot_style.BLUE, 'o', ''),
  'unfolded': (plot_style.SKY_BLUE, 'v', ''),
  'published': (plot_style.ORANGE, 's', '///'),
  'onnx': (plot_style.BLACK, '<', ''),
  'openvino': ('0.6', '>', ''),
  'timm': (plot_style.VERMILION, '^', ''),
  'timm-contiguous': (plot_style.PURPLE, 'D', '...'),
  'timm-compiled': (plot_style.GREEN, 'P', 'xxx'),
}
_LABELS = {
  'timm': 'timm (channels last)',
  'timm-contiguous': 'timm (contiguous)',
  'timm-compiled': 'timm (compiled)',
  'unfolded': 'ours, not folded',
  'published': 'as published',
  'onnx': 'ours in ONNX Runtime',
  'openvino': 'ours in OpenVINO',
}


def draw(rows: Sequence[Row], footnote: str = '') -> Figure:
  """Draws lines where there are three points or more, else bars.

  Raises:
    ValueError: nothing was measured.
  """
  rows = [row for row in rows if 'median' in row]
  if not rows:
    raise ValueError('nothing was measured, so there is nothing to draw.')
  lines = scaling.series(rows)
  return _draw_lines(lines, footnote) if lines else _draw_bars(rows, footnote)


def _draw_lines(lines: list[dict[str, Any]], footnote: str) -> Figure:
  panels = list(dict.fromkeys((one['title'], one['against']) for one in lines))
  columns = min(2, len(panels))
  count = math.ceil(len(panels) / columns)
  figure = _figure(6.0 * columns, 4.2 * count, footnote)
  grid = figure.subplots(count, columns, squeeze=False)
  for axes in list(grid.flat)[len(panels) :]:
    axes.set_axis_off()
  for axes, panel in zip(grid.flat, panels, strict=False):
    here = [one for one in lines if (one['title'], one['against']) == panel]
    for one in here:
      color, marker, _ = _STYLES[one['contestant']]
      milliseconds = [1e3 * value for value in one['median']]
      errors = [m * s / 2 for m, s in zip(milliseconds, one['spread'], strict=True)]
      axes.errorbar(
        one['x'], milliseconds, errors, color=color, marker=marker, markersize=5, linewidth=1.6,
        capsize=2, label=f'{_label(one["contestant"])}: slope {one["slope"]:.2f}',
      )  # fmt: skip
    axes.set_title(panel[0], fontsize='medium', parse_math=False)
    axes.set_xscale('log', base=2)
    axes.set_yscale('log')
    x = sorted({value for one in here for value in one['x']})
    axes.set_xticks(x, [str(value) for value in x])
    axes.xaxis.set_minor_formatter(NullFormatter())
    plain = FuncFormatter(lambda value, _: f'{value:g}')
    axes.yaxis.set_major_formatter(plain)
    low, high = axes.get_ylim()
    if high / low < 300:  # the powers of ten alone would be few
      axes.set_yticks(_nice_numbers(low, high))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel('images in a batch' if panel[1] == 'batch' else 'height and width (px)')
    axes.set_ylabel('time of a call (ms)')
    axes.legend(frameon=False, fontsize='small')
    plot_style.tidy(axes)
  return figure


def _nice_numbers(low: float, high: float) -> list[float]:
  exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  numbers = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
  return [number for number in numbers if low <= number <= high]


def _draw_bars(rows: list[Row], footnote: str) -> Figure:
  """Each contestant's time over ours."""
  cases = [row for row in rows if row['contestant'] == 'ours']
  groups = []
  for mine in cases:
    others = [
      row
      for row in rows
      if table.case_key(row) == table.case_key(mine) and row['contestant'] != 'ours'
    ]
    groups.append((mine, others))
  relative = any(others for _, others in groups)
  if not relative:  # ours alone: its times
    groups = [(mine, [mine]) for mine in cases]
  bars = sum(len(others) for _, others in groups) + len(groups)
  figure = _figure(8.0, 1.2 + 0.27 * bars, footnote)
  axes = figure.subplots()
  y, ticks, labels, seen = 0.0, [], [], {}
  longest = max(_length(row, mine, relative) for mine, others in groups for row in others)
  for mine, others in groups:
    ticks.append(y + (len(others) - 1) / 2)
    labels.append(f'{_case(mine)}\nours {table.digits(1e3 * mine["median"])} ms')
    for row in others:
      color, _, hatch = _STYLES[row['contestant']]
      length = _length(row, mine, relative)
      bar = axes.barh(y, length, 0.82, color=color, hatch=hatch, edgecolor='white', linewidth=0)
      seen.setdefault(_label(row['contestant']), bar)
      written = f'{length:.2f}' if relative else f'{table.digits(length)} ms'
      axes.text(length + 0.01 * longest, y, written, va='center', fontsize='small')
      y += 1
    y += 1
  if relative:
    axes.axvline(1, color='0.2', linewidth=1.2)
  axes.set_yticks(ticks, labels, fontsize='small')
  axes.invert_yaxis()
  axes.set_xlim(0, 1.1 * max(longest, 1.0 if relative else 0.0))
  axes.set_xlabel('time of a call / ours (above 1: ours is quicker)' if relative else 'time (ms)')
  figure.legend(seen.values(), seen.keys(), loc='outside upper center', ncols=3, frameon=False)
  plot_style.tidy(axes, 'x')
  return figure


def _length(row: Row, mine: Row, relative: bool) -> float:
  return row['median'] / mine['median'] if relative else 1e3 * row['median']


def _case(row: Row) -> str:
  dtype = '' if row['dtype'] == 'float32' else f', {row["dtype"]}'
  return f'{row["model"]} {row["task"]}, {row["batch"]} x {row["size"]} px{dtype}'


def _label(contestant: str) -> str:
  return _LABELS.get(contestant, contestant)


def _figure(width: float, height: float, footnote: str) -> Figure:
  lines = textwrap.wrap(footnote, round(13 * width))
  size = (width, height + 0.2 * len(lines))
  figure = Figure(figsize=size, dpi=110, layout='constrained')
  if lines:
    figure.supxlabel('\n'.join(lines), fontsize='small', color='0.35')
  return figure
