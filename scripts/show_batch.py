#!/usr/bin/env python3
"""Draws a training batch as the network sees it, with labels and mix ratios.

    nfnets show-batch --config=digits --out=batch.png
    nfnets show-batch --config=nfnet_imagenet:F0 --config.data.dir=DIR --out=batch.png \
      --step=1000 --count=24

The config's flags are those of the training, so the picture is the batch of that step, on one
device. Exit code 0: done; 1: the config or the data cannot be used; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import pathlib

import cv2
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from experiments import data
from experiments.data import Batch
from experiments.runtime import atomic_files, command_line, output_files
from experiments.runtime.errors import ConfigError
from experiments.training import settings
from nfnets.preprocessing import Preprocessing

_FONT, _INK, _QUIET, _PAPER = cv2.FONT_HERSHEY_SIMPLEX, (30, 30, 30), (110, 110, 110), 255
_TEXT_SCALE, _LINE, _GAP = 0.45, 19, 12  # font scale, pixels a line, pixels between tiles
_LEAST_SIDE = 160  # pixels; smaller pictures are enlarged by a whole factor


def draw(
  batch: Batch, class_names: tuple[str, ...], count: int, preprocessing: Preprocessing
) -> np.ndarray:
  """Returns a sheet of the first examples of a batch, uint8 [H, W, 3] RGB.

  Args:
    batch: of one device.
    class_names: in the order of the labels.
    count: examples to draw at most.
    preprocessing: whose mean and standard deviation made the batch.
  """
  pictures, captions = [], []
  for place in range(min(count, batch.labels.shape[1])):
    image, label, mix_label, ratio, mask = (part[0, place] for part in batch)
    pixels = preprocessing.restore(image.astype(np.float32))
    factor = -(-_LEAST_SIDE // len(pixels))
    pictures.append(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
    captions.append(_lines(class_names[label], class_names[mix_label], float(ratio), bool(mask)))
  longest = max(map(len, captions))
  tiles = [
    _tile(pixels, lines + [''] * (longest - len(lines)))
    for pixels, lines in zip(pictures, captions, strict=True)
  ]
  columns = _columns(len(tiles))
  blank = np.full_like(tiles[0], _PAPER)
  tiles += [blank] * (-len(tiles) % columns)
  rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
  sheet = np.vstack(rows)
  return cv2.copyMakeBorder(sheet, _GAP, 0, _GAP, 0, cv2.BORDER_CONSTANT, value=(_PAPER,) * 3)


def _columns(count: int) -> int:
  """Returns the columns of a sheet that is wider than high, with few empty places."""

  def cost(columns: int) -> float:
    return abs(columns / -(-count // columns) - 1.5) + 0.5 * (-count % columns)

  return min(range(1, count + 1), key=cost)


def _lines(name: str, mix_name: str, ratio: float, is_real: bool) -> list[str]:
  """What stands under an example; the two shares add up to 100 %."""
  if not is_real:
    return ['padding']
  share = round(100 * ratio)
  return [name] if ratio == 1 else [f'{share} % {name}', f'{100 - share} % {mix_name}']


def _tile(pixels: np.ndarray, lines: list[str]) -> np.ndarray:
  """One picture with its lines of text below, cut where they are too long."""
  height, width = pixels.shape[:2]
  tile = np.full((height + len(lines) * _LINE + _GAP, width + _GAP, 3), _PAPER, np.uint8)
  tile[:height, :width] = pixels
  for number, text in enumerate(lines):
    text = text.encode('ascii', 'replace').decode()  # all that the font has
    while text and cv2.getTextSize(text, _FONT, _TEXT_SCALE, 1)[0][0] > width:
      text = text.removesuffix('..')[:-1].rstrip() + '..' if len(text) > 3 else ''
    place = (0, height + (number + 1) * _LINE - 5)
    color = _INK if number == 0 else _QUIET
    cv2.putText(tile, text, place, _FONT, _TEXT_SCALE, color, 1, cv2.LINE_AA)
  return tile


def show(config: ConfigDict, path: str, step: int, count: int) -> None:
  """Draws the batch of a step of a config into a file."""
  out = output_files.require(path, '--out', suffixes=('.png', '.jpg', '.jpeg'))
  asked = data.DataSettings.from_config(config)
  if asked.source == 'folder' and out.resolve().is_relative_to(pathlib.Path(asked.dir).resolve()):
    raise ConfigError(
      f'--out={out} lies in --config.data.dir, where it would be one of the pictures: choose '
      'another place.'
    )
  chosen = data.DataSettings.from_config(settings.resolve(config))
  info = data.describe(chosen)
  with data.train_batches(chosen, step, num_devices=1) as batches:
    batch = next(batches)
  sheet = draw(batch, info.class_names, count, chosen.preprocessing)
  encoded = cv2.imencode(out.suffix.lower(), sheet[..., ::-1])[1].tobytes()
  atomic_files.replace(out, lambda p: p.write_bytes(encoded))
  print(f'Step {step} of {chosen.title} is drawn in {out}.')


def main(argv: list[str] | None = None) -> int:
  """Draws what the flags say."""
  config = command_line.define_config('digits', 'Whose batch to draw.')
  out = flags.DEFINE_string('out', 'batch.png', 'The picture to write, .png or .jpg.')
  step = flags.DEFINE_integer('step', 0, 'Number of the batch.', lower_bound=0)
  count = flags.DEFINE_integer('count', 16, 'Examples to draw at most.', lower_bound=1)

  def program() -> None:
    settings.require_effect(config.value, command_line.given_fields())
    show(config.value, out.value, step.value, count.value)

  command_line.run(program, argv)


if __name__ == '__main__':
  main()
