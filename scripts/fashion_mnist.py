"""Makes a folder of pictures of Fashion-MNIST's four files, 70,000 PNGs in ten classes.

apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
python scripts/fashion_mnist.py fashion/usr/share/datasets/fashion-mnist runs/fashion_mnist

SRC has the files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz and the two of t10k, as
https://github.com/zalandoresearch/fashion-mnist and Debian's package dataset-fashion-mnist have
them. Writes OUT/train/<class>/<number>.png and OUT/test/<class>/<number>.png of 28 x 28 pixels.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import gzip
import math
import pathlib
import shutil
import sys
import zlib

import cv2
import numpy as np

from experiments.runtime.errors import DataError

CLASSES = (
  't-shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag',
  'ankle boot',
)  # fmt: skip
_PARTS = {'train': 'train', 'test': 't10k'}
_SIDE = 28  # pixels
_MOST = 100_000  # pictures of a part


def read_idx(path: pathlib.Path, sides: tuple[int, ...] = ()) -> np.ndarray:
  """Returns the bytes of a compressed IDX file, uint8 [N, *sides].

  Args:
    path: of the file.
    sides: all axes but the first.

  Raises:
    DataError: it is not there, or is no such file; the sentence says which.
  """
  head, most = 4 * (len(sides) + 2), _MOST * math.prod(sides)
  try:
    with gzip.open(path) as file:
      start, content = file.read(head), file.read(most + 1)
  except FileNotFoundError:
    raise DataError(f'there is no {path}: give the folder that has it') from None
  except (OSError, EOFError, zlib.error) as error:
    raise DataError(f'{path} cannot be read ({error}): get it anew') from None
  magic, *shape = np.frombuffer(start.ljust(head, b'\0'), '>u4')
  is_right = magic == 0x800 + len(shape) and tuple(shape[1:]) == sides
  if not is_right or len(content) != shape[0] * math.prod(sides):
    expected = ' x '.join(['N', *map(str, sides)])
    raise DataError(f'{path} is no whole IDX file of {expected} bytes: get it anew')
  return np.frombuffer(content, np.uint8).reshape(shape)


def write(source: pathlib.Path, folder: pathlib.Path) -> int:
  """Writes a new folder and returns the number of pictures.

  Raises:
    DataError: the folder is there, or a file of the source is not as it should be.
  """
  if folder.exists():
    raise DataError(f'{folder} exists already: name a new folder')
  parts = {}
  for part, prefix in _PARTS.items():
    images = read_idx(source / f'{prefix}-images-idx3-ubyte.gz', (_SIDE, _SIDE))
    labels = read_idx(source / f'{prefix}-labels-idx1-ubyte.gz')
    if len(images) != len(labels) or labels.max(initial=0) >= len(CLASSES):
      raise DataError(
        f'the labels in {source}/{prefix}-labels-idx1-ubyte.gz are not those of the pictures '
        'beside it: get both files anew'
      )
    parts[part] = images, labels
  unfinished = folder.with_name(f'.{folder.name}.unfinished')
  shutil.rmtree(unfinished, ignore_errors=True)
  with interruption.undone(lambda: shutil.rmtree(unfinished)):
    for part, (images, labels) in parts.items():
      for name in CLASSES:
        (unfinished / part / name).mkdir(parents=True)
      for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = unfinished / part / CLASSES[label] / f'{number:05d}.png'
        path.write_bytes(cv2.imencode('.png', image)[1].tobytes())
    unfinished.rename(folder)
  return sum(len(labels) for _, labels in parts.values())


def main(argv: list[str] | None = None) -> int:
  """Writes what the arguments say."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('src', metavar='SRC', type=pathlib.Path, help='the folder of the four files')
  parser.add_argument('out', metavar='OUT', type=pathlib.Path, help='a new folder')
  options = parser.parse_args(argv)
  try:
    count = write(options.src, options.out)
  except DataError as error:
    sys.exit(f'Error: {error}.')
  print(f'{count:,} pictures of {len(CLASSES)} classes are in {options.out}.')
  print(
    'Train on them with --config=small_images --config.data.source=folder '
    f'--config.data.dir={options.out}'
  )
  return 0


if __name__ == '__main__':
  sys.exit(main())
