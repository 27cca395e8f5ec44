"""Adaptive gradient clipping at large batches and learning rates, and which clipping."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from nfnets import optim
from scripts.reproducing import drawing
from scripts.reproducing.claims.claim import Claim
from scripts.reproducing.rows import Row
from scripts.reproducing.study import Arm, Study, best_runs

_BN, _NF, _AGC = 'batch normalisation', 'normalizer-free, no clipping', 'normalizer-free with AGC'
_LARGEST = 0.16  # clipping that [NFNet] tries
_LOOSE = f'normalizer-free with AGC at {_LARGEST}'
_CLASSIFIER = 'classifier clipped as well'


def _large_batches(batches: Sequence[int], **fields: object) -> Study:
  arms = [Arm(label=_BN, network='BN', batch=batch) for batch in batches]
  arms += [Arm(label=_NF, network='NF', batch=batch) for batch in batches]
  arms += [
    Arm(label=_AGC, network='NF', batch=batch, clipping=optim.clipping_for_batch(batch))
    for batch in batches
  ]
  # The clipping of the smallest batch for the others as well: they are short runs.
  arms += [Arm(label=_LOOSE, network='NF', batch=batch, clipping=_LARGEST) for batch in batches[1:]]
  return Study(arms=arms, **fields)


def _clippings(batches: Sequence[int], clippings: Sequence[float], **fields: object) -> Study:
  arms = [
    Arm(label='AGC', network='NF', batch=batch, clipping=clipping)
    for batch in batches
    for clipping in clippings
  ]
  arms += [
    Arm(label=_CLASSIFIER, network='NF', batch=batches[-1], clipping=clipping, clip_classifier=True)
    for clipping in clippings
  ]
  return Study(arms=arms, **fields)


def _draw_large_batch(rows: Sequence[Row]) -> Figure:
  largest = max(row['batch'] for row in rows)
  figure, (over_batch, over_rate) = drawing.panels(2)
  drawing.best_over(over_batch, rows, 'batch', 'batch')
  over_batch.set_title('each at its best learning rate', fontsize='medium')
  drawing.first_seed_over_rate(over_rate, [row for row in rows if row['batch'] == largest])
  over_rate.set_title(f'batch {largest}, one seed', fontsize='medium')
  drawing.legend_above(figure, over_batch)
  return figure


def _say_large_batch(rows: Sequence[Row]) -> list[str]:
  lines = []
  for label, batch in dict.fromkeys((row['label'], row['batch']) for row in rows):
    best = best_runs(rows, label=label, batch=batch)
    rate, result = best[0]['rate'], drawing.mean_and_range(best)
    lines.append(f'{label}, batch {batch}: {result} at rate {rate:g}')
  return lines


def _draw_clip(rows: Sequence[Row]) -> Figure:
  inside = [row for row in rows if row['label'] != _CLASSIFIER]
  batches = sorted({row['batch'] for row in inside})
  clippings = sorted({row['clipping'] for row in inside})
  figure, (grid, lines) = drawing.panels(2)
  means = np.array(
    [
      [drawing.percent(best_runs(inside, batch=b, clipping=c)).mean() for c in clippings]
      for b in batches
    ]
  )
  behind = means - means.max(1, keepdims=True)  # of each batch's best
  grid.imshow(behind, cmap='cividis', aspect='auto', vmin=-10)
  for (i, j), value in np.ndenumerate(means):
    colour = 'black' if behind[i, j] > -5 else 'white'
    grid.text(j, i, f'{value:.1f}', ha='center', va='center', color=colour)
  grid.set_xticks(range(len(clippings)), [f'{c:g}' for c in clippings])
  grid.set_yticks(range(len(batches)), batches)
  grid.set_xlabel('clipping')
  grid.set_ylabel('batch')
  grid.set_title('test top-1 (%), colour: behind the best of its row', fontsize='medium')
  largest = [row for row in rows if row['batch'] == batches[-1]]
  names = {'AGC': 'classifier not clipped'}
  largest = [{**row, 'label': names.get(row['label'], row['label'])} for row in largest]
  drawing.best_over(lines, largest, 'clipping', 'clipping')
  lines.set_title(f'batch {batches[-1]}', fontsize='medium')
  lines.legend(frameon=False)
  return figure


def _say_clip(rows: Sequence[Row]) -> list[str]:
  lines = []
  for label in drawing.labels_of(rows):
    own = [row for row in rows if row['label'] == label]
    for batch, clipping in dict.fromkeys((row['batch'], row['clipping']) for row in own):
      best = best_runs(own, batch=batch, clipping=clipping)
      rate, result = best[0]['rate'], drawing.mean_and_range(best)
      lines.append(f'{label}, batch {batch}, clipping {clipping:g}: {result} at rate {rate:g}')
  return lines


LARGE_BATCH = Claim(
  name='large_batch',
  statement='Without clipping, a normalizer-free network falls behind at large batches and '
  'learning rates; adaptive gradient clipping mends it.',
  source='[NFNet] figure 2a and section 4.1',
  study=_large_batches(
    (64, 256, 1024, 2048), rates=(0.03, 0.1, 0.3, 1.0, 3.0), pictures=20_000, epochs=5.0
  ),
  quick=_large_batches((64, 512), rates=(0.1, 0.3, 1.0), seeds=2, pictures=1_000, epochs=8.0),
  draw=_draw_large_batch,
  say=_say_large_batch,
)
CLIP = Claim(
  name='clip',
  statement='The larger the batch, the smaller the best clipping; the classifier must not be '
  'clipped.',
  source='[NFNet] figure 2b and section 4.1',
  study=_clippings(
    (64, 1024), (0.01, 0.04, 0.16), rates=(0.3, 1.0, 3.0), pictures=20_000, epochs=2.0
  ),
  quick=_clippings((64, 256), (0.02, 0.16), rates=(0.3, 1.0), seeds=2, pictures=1_000, epochs=4.0),
  draw=_draw_clip,
  say=_say_clip,
)
