"""Batch normalisation at small batches."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from scripts.reproducing import drawing, networks
from scripts.reproducing.claims.claim import Claim
from scripts.reproducing.rows import Row
from scripts.reproducing.study import Arm, Study, best_runs

_BATCH = 32
_BN, _NF = 'batch normalisation', 'normalizer-free'


def _study(per_device: Sequence[int], depth: tuple[int, ...], **fields: object) -> Study:
  def arm(label: str, network: str, size: int) -> Arm:
    return Arm(label=label, network=network, depth=depth, batch=_BATCH, slices=_BATCH // size)

  arms = [arm(_BN, 'BN', size) for size in per_device]
  # To it the slices are all the same: the ends are enough to show it.
  arms += [arm(_NF, 'NF', size) for size in (per_device[0], per_device[-1])]
  return Study(arms=arms, **fields)


def _with_sizes(rows: Sequence[Row]) -> list[Row]:
  return [{**row, 'size': row['batch'] // row['slices']} for row in rows]


def _draw(rows: Sequence[Row]) -> Figure:
  figure, (axes,) = drawing.panels(1, width=6.0)
  drawing.best_over(axes, _with_sizes(rows), 'size', f'pictures per device, of {_BATCH} per update')
  axes.legend(frameon=False, loc='lower right')
  return figure


def _say(rows: Sequence[Row]) -> list[str]:
  rows = _with_sizes(rows)
  settings = dict.fromkeys((row['label'], row['size']) for row in rows)
  return [
    f'{label}, {size:2d} pictures per device: '
    f'{drawing.mean_and_range(best_runs(rows, label=label, size=size))}'
    for label, size in settings
  ]


SMALL_BATCH = Claim(
  name='small_batch',
  statement='Batch normalisation loses accuracy when a device has few pictures; '
  'a normalizer-free network does not.',
  source='[SigProp] table 4 and section 5',
  study=_study(
    (2, 4, 8, 32), networks.SHALLOW, rates=(0.03, 0.1, 0.3, 1.0), pictures=10_000, epochs=4.0
  ),
  quick=_study((2, 32), networks.SMALLEST, rates=(0.1, 0.3), seeds=2, pictures=1_000, epochs=4.0),
  draw=_draw,
  say=_say,
)
