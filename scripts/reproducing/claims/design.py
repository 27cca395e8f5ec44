"""The steps by which the NFNets were designed."""

from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.reporting import plot_style
from nfnets import zoo
from scripts.reproducing import drawing, networks
from scripts.reproducing.claims.claim import Claim
from scripts.reproducing.rows import Row
from scripts.reproducing.study import Arm, Study, best_runs

_CLIPPING = 0.16
# Each row of [NFNet] table 2 that means something for small pictures: label, network, mixing.
_STEPS = (
  ('as SE-ResNeXt-D', 'first', 'none'),
  ('+ widths', 'wider', 'none'),
  ('+ second convolution', 'second convolution', 'none'),
  ('+ mixup', 'second convolution', 'mixup'),
  ('+ CutMix', 'second convolution', 'mixup_cutmix'),
)


def _study(**fields: object) -> Study:
  depth = networks.DESIGN_DEPTH
  arms = [
    Arm(label=label, network=name, depth=depth, clipping=_CLIPPING, mixing=mixing)
    for label, name, mixing in _STEPS
  ]
  return Study(arms=arms, **fields)


def _parameters(row: Row) -> int:
  spec = networks.spec_of(row['network'], tuple(row['depth']))
  return sum(x.size for x in jax.tree.leaves(zoo.parameter_shapes(spec, 10)))


def _draw(rows: Sequence[Row]) -> Figure:
  figure, (axes,) = drawing.panels(1, width=7.5)
  labels = drawing.labels_of(rows)
  for place, label in enumerate(labels):
    values = drawing.percent(best_runs(rows, label=label))
    axes.plot([place] * len(values), values, 'o', color=plot_style.BLUE, alpha=0.6)
    axes.hlines(values.mean(), place - 0.3, place + 0.3, color=plot_style.BLUE)
  axes.set_xticks(range(len(labels)), [label.replace(' conv', '\nconv') for label in labels])
  axes.set_ylabel(drawing.ACCURACY)
  plot_style.tidy(axes, 'y')
  return figure


def _say(rows: Sequence[Row]) -> list[str]:
  lines = []
  for label in drawing.labels_of(rows):
    best = best_runs(rows, label=label)
    seconds = np.median([row['seconds'] for row in best])
    lines.append(
      f'{label}: {drawing.mean_and_range(best)} at rate {best[0]["rate"]:g}, '
      f'{_parameters(best[0]):,} parameters, {seconds:.0f} s a run'
    )
  return lines


DESIGN = Claim(
  name='design',
  statement='Each step from a normalizer-free SE-ResNeXt-D to an NFNet adds accuracy: other '
  'widths, a second 3x3 convolution, stronger augmentation.',
  source='[NFNet] table 2',
  study=_study(rates=(0.1, 0.3, 1.0), pictures=20_000, epochs=3.0),
  quick=_study(rates=(0.3,), seeds=2, pictures=1_000, epochs=4.0),
  draw=_draw,
  say=_say,
)
