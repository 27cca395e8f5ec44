"""Normalizer-free networks against batch normalisation, and what it takes."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.reporting import plot_style
from scripts import signal_networks
from scripts.reproducing import drawing, networks
from scripts.reproducing.claims.claim import Claim, Measurement
from scripts.reproducing.pictures import SIZE, Pictures
from scripts.reproducing.rows import Row
from scripts.reproducing.study import Arm, Study, best_runs

_LABELS = {
  'BN': 'batch normalisation',
  'NF': 'normalizer-free',
  'NF without standardisation': 'without weight standardisation',
  'NF without gamma': 'without gamma',
  'BN without BN': 'no normalisation at all',
}
_SIGNAL_BATCH = 128


def _study(names: Sequence[str], depths: Sequence[tuple[int, ...]], **fields: object) -> Study:
  arms = [Arm(label=_LABELS[name], network=name, depth=depth) for depth in depths for name in names]
  return Study(arms=arms, **fields)


def _signal(name: str) -> Row:
  """Measures the blocks of a fresh deep network on white noise."""
  images = signal_networks.make_images('white', _SIGNAL_BATCH, SIZE, seed=0)
  # Fresh running statistics normalise nothing.
  options = {'test_local_stats': True} if name.startswith('BN') else {}
  function = networks.function(name, 10, networks.DEEP)
  network = functools.partial(function, is_training=False, **options)
  subject = signal_networks.Subject(name, network, SIZE)
  blocks = signal_networks.measure(subject, images, seed=0)
  return {
    'variance': [float(f'{block.average_variance:.4g}') for block in blocks],
    'squared_mean': [float(f'{block.average_squared_mean:.4g}') for block in blocks],
  }


def _measurements(_pictures: Pictures, _quick: bool) -> list[Measurement]:
  return [({'signal_of': name}, functools.partial(_signal, name)) for name in _LABELS]


def _blocks(row: Row) -> int:
  return sum(row['depth'])


def _draw_match(rows: Sequence[Row]) -> Figure:
  rows = [{**row, 'blocks': _blocks(row)} for row in rows]
  figure, (over_depth, over_rate) = drawing.panels(2)
  drawing.best_over(over_depth, rows, 'blocks', 'residual blocks')
  over_depth.set_title('each at its best learning rate', fontsize='medium')
  deepest = max(row['blocks'] for row in rows)
  drawing.first_seed_over_rate(over_rate, [row for row in rows if row['blocks'] == deepest])
  over_rate.set_title(f'{deepest} blocks, one seed', fontsize='medium')
  drawing.legend_above(figure, over_depth)
  return figure


def _say(rows: Sequence[Row]) -> list[str]:
  runs = [{**row, 'blocks': _blocks(row)} for row in rows if 'label' in row]
  lines = []
  for blocks, label in dict.fromkeys((row['blocks'], row['label']) for row in runs):
    best = best_runs(runs, label=label, blocks=blocks)
    rate, result = best[0]['rate'], drawing.mean_and_range(best)
    lines.append(f'{blocks} blocks, {label}: {result} at rate {rate:g}')
  return lines


def _draw_ablation(rows: Sequence[Row]) -> Figure:
  runs = [row for row in rows if 'label' in row]
  signals = {_LABELS[row['signal_of']]: row for row in rows if 'signal_of' in row}
  labels = drawing.labels_of(runs)
  styles = dict(zip(labels, drawing.STYLES, strict=False))
  figure, (variance, shift, over_rate, best) = drawing.panels(4)
  for label in labels:
    values = {key: np.array(signals[label][key]) for key in ('variance', 'squared_mean')}
    blocks, style = range(1, len(values['variance']) + 1), {**styles[label], 'markersize': 3}
    variance.plot(blocks, values['variance'], **style)
    shift.plot(blocks, values['squared_mean'] / values['variance'], **style)
  for axes, title in ((variance, 'variance'), (shift, 'squared mean over variance')):
    axes.set_yscale('log')
    axes.set_title(f'{title} at the start', fontsize='medium')
    axes.set_xlabel('block')
    plot_style.tidy(axes)
  drawing.first_seed_over_rate(over_rate, runs)
  over_rate.set_title('after training, one seed', fontsize='medium')
  _bars(best, runs, styles)
  drawing.legend_above(figure, over_rate)
  return figure


def _bars(axes: Axes, runs: Sequence[Row], styles: dict[str, dict[str, Any]]) -> None:
  """Draws each method's accuracy at its best rate, one dot for each seed."""
  for place, (label, style) in enumerate(styles.items()):
    values = drawing.percent(best_runs(runs, label=label))
    axes.plot([place] * len(values), values, style['marker'], color=style['color'], alpha=0.7)
    axes.hlines(values.mean(), place - 0.3, place + 0.3, color=style['color'])
  axes.set_xticks([])
  axes.set_xlim(-0.6, len(styles) - 0.4)
  axes.set_title('at the best rate, all seeds', fontsize='medium')
  axes.set_ylabel(drawing.ACCURACY)
  plot_style.tidy(axes)


MATCH = Claim(
  name='match',
  statement='A normalizer-free ResNet reaches the accuracy of a batch-normalised one of equal size '
  'after equally many updates.',
  source='[SigProp] table 3; [NFNet] section 4',
  study=_study(
    ('BN', 'NF'), [networks.SMALLEST, networks.SHALLOW],
    rates=(0.1, 0.3, 1.0), pictures=20_000, epochs=3.0,
  ),
  quick=_study(
    ('BN', 'NF'), [networks.SHALLOW], rates=(0.1, 0.3), seeds=2, pictures=1_200, epochs=8.0
  ),
  draw=_draw_match,
  say=_say,
)  # fmt: skip
ABLATION = Claim(
  name='ablation',
  statement='Without weight standardisation or without gamma, the signal of a normalizer-free '
  'network drifts or fades with depth, and it trains worse.',
  source='[SigProp] sections 3 and 4',
  study=_study(tuple(_LABELS), [networks.DEEP], rates=(0.1, 0.3, 1.0), pictures=20_000, epochs=1.5),
  quick=_study(
    tuple(_LABELS), [networks.DEEP], rates=(0.1, 0.3), seeds=2, pictures=1_000, epochs=3.0
  ),
  measurements=_measurements,
  draw=_draw_ablation,
  say=_say,
)
