"""Draws a folder of pictures to try training on: circles, squares and triangles, 20 of each.

python scripts/draw_shapes.py OUT
python scripts/draw_shapes.py OUT --per-class 100 --seed 1

Writes OUT/<class>/<number>.png of 128 x 128 pixels. Colours, sizes and places are random; the same
seed draws the same pictures.
"""

import argparse
import pathlib
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw

SIZE = 128  # pixels of a side
CLASSES = ('circle', 'square', 'triangle')
_LIGHTEST = 180  # mean of red, green and blue, 0 to 255: to be seen on white


def draw(kind: str, rng: np.random.Generator) -> PIL.Image.Image:
  """Returns a picture of one shape on white, RGB, `SIZE` x `SIZE` pixels."""
  colour = rng.integers(0, 256, 3)
  while colour.mean() > _LIGHTEST:
    colour = rng.integers(0, 256, 3)
  picture = PIL.Image.new('RGB', (SIZE, SIZE), 'white')
  pen, colour = PIL.ImageDraw.Draw(picture), tuple(map(int, colour))
  radius = rng.uniform(0.15, 0.35) * SIZE
  x, y = rng.uniform(radius, SIZE - radius, 2)
  if kind == 'circle':
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), colour)
  else:
    pen.regular_polygon((x, y, radius), {'square': 4, 'triangle': 3}[kind], rotation=0, fill=colour)
  return picture


def write(folder: pathlib.Path, per_class: int, seed: int) -> int:
  """Writes the pictures of all classes; returns how many.

  Raises:
    FileExistsError: the folder is there already.
  """
  folder.mkdir(parents=True)
  rng = np.random.default_rng(seed)
  for kind in CLASSES:
    (folder / kind).mkdir()
    for number in range(per_class):
      draw(kind, rng).save(folder / kind / f'{number:04d}.png')
  return per_class * len(CLASSES)


def main(argv: list[str] | None = None) -> int:
  """Writes what the arguments say."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('out', type=pathlib.Path, metavar='OUT', help='a new folder')
  parser.add_argument('--per-class', type=int, default=20)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(argv)
  if options.per_class < 1:
    parser.error(f'--per-class must be at least 1, got {options.per_class}')
  try:
    count = write(options.out, options.per_class, options.seed)
  except FileExistsError:
    print(f'Error: {options.out} exists already: name a new folder.', file=sys.stderr)
    return 1
  print(f'{count} pictures of {len(CLASSES)} classes in {options.out}.')
  return 0


if __name__ == '__main__':
  sys.exit(main())
