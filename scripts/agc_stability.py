"""The largest stable learning rate by batch size, with adaptive gradient clipping and without.

python scripts/agc_stability.py --out docs/figures/agc_stability.png

The argument of [NFNet] (arXiv 2102.06171) section 4.1 on scikit-learn's digits: without clipping a
normalizer-free network stops training at learning rates at which a clipped one still trains, and
the more so the larger the batch. Every run has the same number of pictures to learn from; each
cell is one run. The numbers go beside the picture as JSON; runs that are there, with the same
arguments, are not repeated.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import optax
from matplotlib.figure import Figure

from configs import digits
from experiments import data
from experiments.data import Batch
from experiments.reporting import plot_style
from experiments.runtime import atomic_files, output_files, platforms
from experiments.runtime.errors import ConfigError
from experiments.training import settings
from nfnets import optim
from scripts.reproducing import pictures, training

BATCHES = (32, 128, 256)  # of 1,437 pictures; larger ones have too few steps to train at all
RATES = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_KEY = ('batch', 'rate', 'clipping', 'epochs')  # the arguments that a result follows from
CHANCE = 0.1
TRAINED = 0.5  # a run counts as stable if it gets this share of the test digits right
SPEC = {
  'width': (16, 32, 48),
  'depth': (1, 2, 2),
  'stride': (1, 2, 2),
  'group_width': 8,
  'stem': ((3, 2, 16),),
  'train_size': 16,
  'test_size': 16,
}


def read_run(batch: int, clipping: float, epochs: float) -> settings.Run:
  """A short run on the digits whose schedule peaks at 1; each run brings its rate."""
  config = digits.get_config()
  config.num_epochs = epochs
  config.global_batch_size = batch
  config.model.spec = SPEC
  config.optimizer.learning_rate = 256 / batch
  config.optimizer.warmup_epochs = 1.0
  config.optimizer.clipping = clipping
  config.data.eval_batch_size = 360
  return settings.read(config)


def preload(run: settings.Run) -> tuple[pictures.Part, Batch]:
  """Returns the training digits and the one test batch."""
  with data.test_batches(run.data, 1, of_training_set=True) as batches:
    train = pictures.gather(batches)
  with data.test_batches(run.data, 1) as batches:
    return train, next(batches)


class Trainer:
  """Trains at any rate with one batch size and one clipping."""

  def __init__(self, batch: int, clipping: float, epochs: float):
    """Builds the network and its steps."""
    described = self.described = read_run(batch, clipping, epochs)

    def make_optimizer(rate: float) -> optax.GradientTransformation:
      return optax.chain(described.optimizer, optax.scale(rate))

    self.trainer = training.Trainer(
      described.network,
      make_optimizer,
      described.step,
      batch=batch,
      total_steps=described.plan.total_steps,
      image_size=described.data.image_size,
      knobs={'rate': 1.0},
    )

  def run(self, rate: float, train: pictures.Part, test: Batch) -> dict[str, Any]:
    """Trains once; a run whose loss is not finite has lost."""
    ended = self.trainer.run({'rate': rate}, 0, *train)
    if not ended.finite:
      return {'top1': CHANCE, 'steps': ended.steps}
    top1 = self.trainer.top1(ended.state.params, ended.state.network_state, [test])
    return {'top1': top1, 'steps': ended.steps}


def measure(
  path: pathlib.Path,
  batches: Sequence[int],
  rates: Sequence[float],
  epochs: float,
  clippings: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
  """Runs the grid, writing each result to `path` as it comes.

  The clippings are by default that of `nfnets.optim.clipping_for_batch` and none.

  Returns:
    The rows of this grid; the file may have others.

  Raises:
    ConfigError: the file is another program's.
  """
  done = read_rows(path)
  if done:
    interruption.explain(lambda: f'{path} has the runs that are done.')
  wanted, loaded = [], None
  for batch in batches:
    for clipping in clippings or (optim.clipping_for_batch(batch), 0.0):
      trainer = Trainer(batch, clipping, epochs)
      loaded = loaded or preload(trainer.described)
      for rate in rates:
        key = (batch, rate, clipping, epochs)
        wanted.append(key)
        if key in done:
          continue
        began = time.monotonic()
        result = trainer.run(rate, *loaded)
        done[key] = {**dict(zip(_KEY, key, strict=True)), **result}
        text = json.dumps(list(done.values()), indent=1) + '\n'
        atomic_files.replace(path, lambda p, text=text: p.write_text(text))
        interruption.explain(lambda: f'{path} has the runs that are done.')
        print(
          f'batch {batch:5d}  rate {rate:5.2f}  clipping {clipping:5.2f}  '
          f'top-1 {result["top1"]:6.1%}  ({time.monotonic() - began:.0f} s)',
          flush=True,
        )
  return [done[key] for key in wanted]


def read_rows(path: pathlib.Path) -> dict[tuple, dict[str, Any]]:
  """Returns the results of a file by their arguments; none if there is no file.

  Raises:
    ConfigError: the file is another program's, which must not be written over.
  """
  if not path.exists():
    return {}
  try:
    rows = json.loads(path.read_text())
    return {
      tuple(row[field] for field in _KEY): {**row, 'top1': float(row['top1'])} for row in rows
    }
  except (KeyError, TypeError, ValueError):
    raise ConfigError(
      f'{path}, where the numbers would go, is no file of this script: choose another --out'
    ) from None


def largest_stable(rows: Sequence[dict[str, Any]], batch: int, clipped: bool) -> float:
  """The largest rate at which a batch size trained; NaN if it did at none."""
  trained = [
    row['rate']
    for row in rows
    if row['batch'] == batch and bool(row['clipping']) == clipped and row['top1'] >= TRAINED
  ]
  return max(trained, default=float('nan'))


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
  """Draws accuracy over rate for each batch size, and the largest stable rate over batch size."""
  batches = sorted({row['batch'] for row in rows})
  rates = sorted({row['rate'] for row in rows})
  figure = Figure(figsize=(3.1 * (len(batches) + 1), 3.8), dpi=110, layout='constrained')
  *panels, last = figure.subplots(1, len(batches) + 1)
  kinds = (
    (True, 'o-', plot_style.BLUE, 'with AGC'),
    (False, 's--', plot_style.VERMILION, 'without AGC'),
  )
  for axes, batch in zip(panels, batches, strict=True):
    for clipped, style, colour, label in kinds:
      found = sorted(
        (row['rate'], 100 * row['top1'], row['clipping'])
        for row in rows
        if row['batch'] == batch and bool(row['clipping']) == clipped
      )
      if clipped:
        clipping = found[0][2]
      axes.plot(*zip(*((r, t) for r, t, _ in found), strict=True), style, color=colour, label=label)
    axes.set_title(f'batch {batch}, AGC at {clipping:g}', fontsize='medium')
    axes.set_ylim(0, 103)
    axes.set_xlabel('peak learning rate')
  panels[0].set_ylabel('test top-1 accuracy (%)')
  for clipped, style, colour, _ in kinds:
    values = [largest_stable(rows, batch, clipped) for batch in batches]
    last.plot(batches, values, style, color=colour)
  last.set_title('largest stable rate', fontsize='medium')
  last.set_xlabel('batch size')
  last.set_yscale('log', base=2)
  last.set_yticks(rates, [f'{rate:g}' for rate in rates])
  last.set_xscale('log', base=2)
  last.set_xticks(batches, batches)
  last.margins(x=0.15)
  last.set_ylim(rates[0] / 1.2, rates[-1] * 1.2)
  handles = panels[0].get_lines()
  figure.legend(handles, [kind[-1] for kind in kinds], loc='outside upper center', ncols=2)
  for axes in panels:
    axes.set_xscale('log', base=2)
    axes.set_xticks(rates[::2], [f'{rate:g}' for rate in rates[::2]])
  for axes in (*panels, last):
    plot_style.tidy(axes)
  return figure


def main(argv: list[str] | None = None) -> int:
  """Measures what the arguments say and draws it."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('agc_stability.png'))
  parser.add_argument('--epochs', type=float, default=8.0)
  parser.add_argument('--batches', type=int, nargs='+', default=BATCHES)
  parser.add_argument('--rates', type=float, nargs='+', default=RATES)
  parser.add_argument(
    '--clippings', type=float, nargs='+', help='measure these (0: none) and draw nothing'
  )
  options = parser.parse_args(argv)
  output_files.require(options.out, '--out', suffixes=plot_style.SUFFIXES, make_folder=True)
  path = options.out.with_suffix('.json')
  rows = measure(path, options.batches, options.rates, options.epochs, options.clippings)
  if options.clippings:
    print(f'Wrote {path}.')
    return 0
  plot_style.save(draw(rows), options.out)
  for batch in options.batches:
    values = [largest_stable(rows, batch, clipped) for clipped in (True, False)]
    print(f'batch {batch:5d}: largest stable rate {values[0]:g} with AGC, {values[1]:g} without')
  print(f'Wrote {options.out} and {path}.')
  return 0


if __name__ == '__main__':
  try:
    with platforms.explained():
      sys.exit(main())
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
