"""Fine-tuning against training from scratch: digits 0-4 as the trunk's data, 5-9 as the task.

python scripts/transfer_digits.py --out runs/transfer --seeds 3

Both arms get the same pictures, batches, steps and schedule; they differ in their first weights
and in the published fine-tuning settings (SAM, weight decay, dropout) that `configs/finetune.py`
adds. Runs that are already there are not trained again; other arguments have folders of their own.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen(at_once=True)  # before the imports that take time

import argparse
import json
import pathlib
import shutil
import sys

import cv2
import numpy as np
from sklearn import datasets, model_selection

from configs import finetune, small_images
from experiments import train
from experiments.runtime import atomic_files, platforms

SPEC = {
  'width': (16, 32),
  'depth': (1, 1),
  'stride': (1, 2),
  'group_width': 8,
  'stem': ((3, 2, 16),),
  'train_size': 16,
  'test_size': 16,
}
_MOST_OF_A_CLASS = 139  # training pictures of the digit 8, which has fewest


def write_digits(folder: pathlib.Path, digits: tuple[int, ...], per_class: int | None) -> None:
  """Writes some of scikit-learn's digits as 8 x 8 PNG files: train/<digit>/ and test/<digit>/.

  Args:
    folder: is made; left alone if it is already there.
    digits: the classes.
    per_class: training pictures of each; None takes all. The test part is always the same fifth.
  """
  if folder.exists():
    return
  bunch = datasets.load_digits()
  train_part, test_part = model_selection.train_test_split(
    np.arange(len(bunch.target)), test_size=360, stratify=bunch.target, random_state=0
  )
  unfinished = folder.with_name(f'.{folder.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  with interruption.undone(lambda: shutil.rmtree(unfinished)):
    for split, part in (('train', train_part), ('test', test_part)):
      for digit in digits:
        place = unfinished / split / str(digit)
        place.mkdir(parents=True)
        chosen = part[bunch.target[part] == digit]
        for i in chosen[: per_class if split == 'train' else None]:
          pixels = np.round(bunch.images[i] * 255 / 16).astype(np.uint8)
          cv2.imwrite(str(place / f'{i}.png'), pixels)
    unfinished.rename(folder)


def small_run(config, folder: pathlib.Path, seed: int, epochs: float):
  """Makes a config one of seconds, on a folder of digits."""
  config.seed = seed
  config.num_epochs = epochs
  config.global_batch_size = 32
  config.optimizer.learning_rate = 0.4
  config.evaluate_every_epochs = 0.0
  config.log_every_steps = 50
  config.data.source = 'folder'
  config.data.dir = str(folder)
  config.data.crop = 'shift'
  config.data.flip = False
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 90
  return config


def accuracy(config, workdir: pathlib.Path) -> float:
  """Trains, unless that is done, and returns the better test top-1 of raw and EMA parameters."""
  report = workdir / 'report.json'
  if not report.exists():
    train.train(config, workdir)
    interruption.explain(lambda: 'Runs that are finished are not trained again.')
  results = json.loads(report.read_text())
  return max(results['top1'], results['top1_ema'])


def arms(out: pathlib.Path, seed: int, epochs: float) -> dict[str, float]:
  """Returns the accuracies of one seed: from scratch, fine-tuned, and the classifier alone.

  Args:
    out: the folder of one set of arguments, with the pictures of the task; the trunk's are beside.
    seed: of all runs.
    epochs: of each arm.
  """
  trunk = small_run(small_images.get_config(), out.parent / 'digits_0_4', seed, epochs=12.0)
  trunk.model.spec = SPEC
  weights = out.parent / f'trunk_{seed}' / 'ema_weights.safetensors'
  accuracy(trunk, weights.parent)

  scratch = small_run(small_images.get_config(), out / 'digits_5_9', seed, epochs)
  scratch.model.spec = SPEC
  tuned = small_run(finetune.get_config(), out / 'digits_5_9', seed, epochs)
  tuned.model.pretrained = str(weights)
  # A trunk of minutes, not of days: both arms train at the rate that suits the one from scratch.
  tuned.optimizer.learning_rate = scratch.optimizer.learning_rate
  tuned.optimizer.warmup_epochs = scratch.optimizer.warmup_epochs
  tuned.model.drop_rate = 0.0
  tuned.ema_decay = scratch.ema_decay
  probe = tuned.copy_and_resolve_references()
  probe.finetune.linear_probe = True
  return {
    'from scratch': accuracy(scratch, out / f'scratch_{seed}'),
    'fine-tuned': accuracy(tuned, out / f'tuned_{seed}'),
    'linear probe': accuracy(probe, out / f'probe_{seed}'),
  }


def main(argv: list[str] | None = None) -> int:
  """Runs all arms and prints a table."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('runs/transfer'))
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--epochs', type=float, default=6.0, help='of each arm')
  parser.add_argument('--per-class', type=int, default=40, help='training pictures of 5 to 9')
  options = parser.parse_args(argv)
  if options.seeds < 1 or options.epochs <= 0:
    parser.error('--seeds and --epochs must be above 0')
  if not 1 <= options.per_class <= _MOST_OF_A_CLASS:
    parser.error(f'--per-class must be from 1 to {_MOST_OF_A_CLASS}, got {options.per_class}')
  out = options.out / f'{options.per_class}_pictures_{options.epochs:g}_epochs'
  out.mkdir(parents=True, exist_ok=True)
  write_digits(options.out / 'digits_0_4', (0, 1, 2, 3, 4), None)
  write_digits(out / 'digits_5_9', (5, 6, 7, 8, 9), options.per_class)
  rows = [arms(out, seed, options.epochs) for seed in range(options.seeds)]
  numbers, text = out / 'transfer.json', json.dumps(rows, indent=2) + '\n'
  atomic_files.replace(numbers, lambda p: p.write_text(text))
  for arm in rows[0]:
    values = [row[arm] for row in rows]
    each = '  '.join(f'{value:6.2%}' for value in values)
    print(f'{arm:14s} {each}   mean {np.mean(values):.2%}')
  print(f'Wrote {numbers}.')
  return 0


if __name__ == '__main__':
  try:
    with platforms.explained():
      sys.exit(main())
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
