"""Accuracy over epsilon on the digits: private training, and private fine-tuning of a classifier.

python scripts/private_digits.py --out runs/private --figures docs/figures

From scratch: the recipe configs/private.py on all ten digits, beside the same network trained
without privacy. Fine-tuned: a network that was trained on the digits 0 to 4 as public pictures gets
a new classifier, trained privately on 5 to 9 (configs/private_finetune.py). Runs that are already
there are not trained again. Writes private_digits.json and private_digits.png.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen(at_once=True)  # before the imports that take time

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from configs import digits, private, private_finetune
from experiments import train
from experiments.reporting import plot_style
from experiments.runtime import atomic_files, compilation_cache, platforms
from scripts import transfer_digits

DELTA = 1e-4
STYLES = {
  'from scratch, ten digits': (plot_style.BLUE, 'o'),
  'classifier fine-tuned, digits 5 to 9': (plot_style.VERMILION, 's'),
}


def from_scratch(seed: int, epsilon: float | None) -> ConfigDict:
  """Returns the config of a run on all digits; without epsilon an ordinary one."""
  config = private.get_config()
  spec = config.model.spec
  if epsilon is None:
    config = digits.get_config()
    config.model.spec = spec
    config.data.eval_batch_size = 120
  config.seed = seed
  config.evaluate_every_epochs = 0.0
  config.private.epsilon = epsilon
  config.private.delta = DELTA
  return config


def public_trunk(seed: int, folder: pathlib.Path) -> ConfigDict:
  """Returns the config of an ordinary run on the digits 0 to 4, which lie in a folder."""
  config = from_scratch(seed, None)
  config.data.source = 'folder'
  config.data.dir = str(folder)
  return config


def fine_tuned(
  seed: int, epsilon: float | None, weights: pathlib.Path, folder: pathlib.Path
) -> ConfigDict:
  """Returns the config of a run that trains a classifier for the digits 5 to 9."""
  config = private_finetune.get_config()
  config.seed = seed
  config.model.pretrained = str(weights)
  config.global_batch_size = 256
  config.optimizer.learning_rate = 2.0
  config.private.epsilon = epsilon
  config.private.delta = DELTA
  config.data.dir = str(folder)
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 90
  return config


def accuracy(config: ConfigDict, workdir: pathlib.Path) -> float:
  """Trains, unless that is done, and returns the test top-1 of the averaged parameters."""
  report = workdir / 'report.json'
  if not report.exists():
    train.train(config, workdir)
    interruption.explain(lambda: 'Runs that are finished are not trained again.')
  return json.loads(report.read_text())['top1_ema']


def measure(out: pathlib.Path, epsilons: Sequence[float], seeds: int) -> dict[str, Any]:
  """Trains all runs.

  Returns:
    Of each of STYLES: 'private', epsilon (as text) -> accuracies of the seeds, and 'not private',
    accuracies of the seeds.
  """
  folders = {}
  for name, kinds in (('digits_0_4', range(5)), ('digits_5_9', range(5, 10))):
    folders[name] = out / name
    transfer_digits.write_digits(folders[name], tuple(kinds), None)
  weights = {}
  for seed in range(seeds):
    accuracy(public_trunk(seed, folders['digits_0_4']), out / f'trunk_{seed}')
    weights[seed] = out / f'trunk_{seed}' / 'ema_weights.safetensors'

  def tuned(seed: int, epsilon: float | None) -> ConfigDict:
    return fine_tuned(seed, epsilon, weights[seed], folders['digits_5_9'])

  results = {}
  for (series, _), (name, make) in zip(
    STYLES.items(), (('scratch', from_scratch), ('tuned', tuned)), strict=True
  ):

    def all_seeds(epsilon: float | None, name=name, make=make) -> list[float]:
      kind = 'public' if epsilon is None else f'{epsilon:g}'
      return [accuracy(make(s, epsilon), out / f'{name}_{kind}_{s}') for s in range(seeds)]

    results[series] = {
      'private': {f'{epsilon:g}': all_seeds(epsilon) for epsilon in epsilons},
      'not private': all_seeds(None),
    }
  return results


def draw(results: dict[str, Any]) -> Figure:
  """Draws mean and range of the seeds over epsilon, and the ordinary runs as lines."""
  figure = Figure(figsize=(6.4, 4.4), dpi=110, layout='constrained')
  axes = figure.subplots()
  for series, (colour, marker) in STYLES.items():
    found = results[series]
    epsilons = [float(epsilon) for epsilon in found['private']]
    values = 100 * np.array(list(found['private'].values()))
    mean = values.mean(1)
    spread = [mean - values.min(1), values.max(1) - mean]
    axes.errorbar(epsilons, mean, spread, color=colour, marker=marker, capsize=3, label=series)
    public = 100 * np.mean(found['not private'])
    axes.axhline(public, color=colour, linestyle='--', linewidth=1)
    axes.annotate(
      'not private', (epsilons[0], public), (0, 3), textcoords='offset points', color=colour,
      fontsize='small',
    )  # fmt: skip
  axes.set_xscale('log', base=2)
  axes.set_xticks(epsilons, [f'{epsilon:g}' for epsilon in epsilons])
  axes.set_xlabel(f'epsilon, at delta {DELTA:g}')
  axes.set_ylabel('test top-1 accuracy, %')
  axes.legend(frameon=False, loc='lower right')
  plot_style.tidy(axes)
  return figure


def main(argv: list[str] | None = None) -> int:
  """Runs everything, prints a table and draws the picture."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/private'))
  parser.add_argument('--figures', type=pathlib.Path, help='folder of the results; default: --out')
  parser.add_argument('--epsilons', type=float, nargs='+', default=[1.0, 2.0, 4.0, 8.0])
  parser.add_argument('--seeds', type=int, default=3)
  options = parser.parse_args(argv)
  if options.seeds < 1 or min(options.epsilons) <= 0:
    parser.error('--seeds and --epsilons must be above 0')
  figures = options.figures or options.out
  for folder in (options.out, figures):
    folder.mkdir(parents=True, exist_ok=True)
  compilation_cache.enable()
  results = measure(options.out, sorted(options.epsilons), options.seeds)
  text = json.dumps({'delta': DELTA, 'top1': results}, indent=2) + '\n'
  atomic_files.replace(figures / 'private_digits.json', lambda p: p.write_text(text))
  plot_style.save(draw(results), figures / 'private_digits.png')
  for series, found in results.items():
    print(series)
    rows = {f'epsilon {e}': v for e, v in found['private'].items()}
    for name, values in {**rows, 'not private': found['not private']}.items():
      each = '  '.join(f'{value:6.2%}' for value in values)
      print(f'  {name:12s} {each}   mean {np.mean(values):.2%}')
  print(f'Wrote {figures}/private_digits.json and private_digits.png.')
  return 0


if __name__ == '__main__':
  try:
    with platforms.explained():
      sys.exit(main())
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
