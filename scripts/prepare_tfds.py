#!/usr/bin/env python3
"""Prepares a TFDS data set for training, ImageNet by default.

nfnets prepare-tfds --tars DIR --out DIR
nfnets prepare-tfds --name cifar10 --out DIR
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import sys

from experiments.data import prepare_tfds
from experiments.runtime.errors import DataError


def main(argv: list[str] | None = None) -> int:
  """Prepares what the arguments say; ends the program with one sentence on an error."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--name', default=prepare_tfds.IMAGENET, help='TFDS name [%(default)s]')
  parser.add_argument('--tars', help='folder of the ILSVRC2012 tars, or of other manual downloads')
  parser.add_argument(
    '--out', required=True, help="TFDS's data directory: --config.data.dir in training"
  )
  chosen = parser.parse_args(argv)
  try:
    builder = prepare_tfds.prepare(chosen.name, chosen.out, chosen.tars)
  except DataError as error:
    sys.exit(f'Error: {error}.')
  print(prepare_tfds.summary(builder))
  print(
    'Train on it with --config.data.source=tfds '
    f'--config.data.name={chosen.name} --config.data.dir={chosen.out}'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
