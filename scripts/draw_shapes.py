"""Draws a folder of pictures to try training on: circles, squares and triangles, 20 of each.

python scripts/draw_shapes.py OUT
python scripts/draw_shapes.py OUT --per-class 100 --seed 1

Writes OUT/<class>/<number>.png of 128 x 128 pixels. Colours, sizes and places are random; the same
seed draws the same pictures.
"""

import pathlib
import sys

import numpy as np
import PIL.Image
import PIL.ImageDraw

from scripts import example_folder

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


def write(folder: pathlib.Path, per_class: int, seed: int) -> None:
  """Draws folder/<class>/<number>.png, `per_class` of each, into a new folder."""
  example_folder.write(
    folder,
    lambda kind, rng, path: draw(kind, rng).save(path.with_suffix('.png')),
    classes=CLASSES,
    per_class=per_class,
    seed=seed,
  )


def main(argv: list[str] | None = None) -> int:
  """Writes what the arguments say."""
  return example_folder.main(
    argv,
    description=__doc__,
    classes=CLASSES,
    per_class=20,
    noun='pictures',
    write=write,
  )


if __name__ == '__main__':
  sys.exit(main())
