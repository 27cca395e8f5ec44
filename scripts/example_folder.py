"""What the scripts share that make a folder of examples to try training on."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence

import numpy as np


def write(
  folder: pathlib.Path,
  draw: Callable[[str, np.random.Generator, pathlib.Path], object],
  *,
  classes: Sequence[str],
  per_class: int,
  seed: int,
) -> None:
  """Writes folder/<class>/<number> for all classes.

  Args:
    folder: a new one.
    draw: (class, generator, path without a suffix) makes one example and writes it.
    classes: names of the folders.
    per_class: examples of each.
    seed: the same one draws the same examples.

  Raises:
    FileExistsError: the folder is there.
  """
  folder.mkdir(parents=True)
  rng = np.random.default_rng(seed)
  for kind in classes:
    (folder / kind).mkdir()
    for number in range(per_class):
      draw(kind, rng, folder / kind / f'{number:04d}')


def main(
  argv: list[str] | None,
  *,
  description: str,
  classes: Sequence[str],
  per_class: int,
  noun: str,
  write: Callable[[pathlib.Path, int, int], None],
) -> int:
  """Reads the command line, writes the folder that it names and returns the exit code.

  Args:
    argv: arguments of the command line; None: those of this process.
    description: of the script.
    classes: names of the folders.
    per_class: examples of each, unless the arguments say otherwise.
    noun: what the examples are called.
    write: (folder, per_class, seed) writes a new folder.
  """
  parser = argparse.ArgumentParser(
    description=description, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('out', type=pathlib.Path, metavar='OUT', help='a new folder')
  parser.add_argument('--per-class', type=int, default=per_class)
  parser.add_argument('--seed', type=int, default=0)
  options = parser.parse_args(argv)
  if options.per_class < 1:
    parser.error(f'--per-class must be at least 1, got {options.per_class}')
  try:
    write(options.out, options.per_class, options.seed)
  except FileExistsError:
    print(f'Error: {options.out} exists already: name a new folder.', file=sys.stderr)
    return 1
  count = options.per_class * len(classes)
  print(f'{count} {noun} of {len(classes)} classes in {options.out}.')
  return 0
