#!/usr/bin/env python3
"""Packs a folder of pictures into one file, which a disk or a network reads quicker.

    nfnets pack-folder SRC OUT
    nfnets train --config=image_folder --config.data.dir=OUT

Training on OUT equals training on SRC bit for bit. Exit code 0: done; 1: it cannot be packed, and
nothing is left at OUT; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import functools
import pathlib
import sys

import tqdm

from experiments.data.sources import packed_folder
from experiments.runtime.errors import DataError


def main(argv: list[str] | None = None) -> int:
  """Packs what the arguments say."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('src', metavar='SRC', help='the folder of pictures')
  parser.add_argument('out', metavar='OUT', help='the packed folder to make; must not exist')
  chosen = parser.parse_args(argv)
  progress = functools.partial(tqdm.tqdm, unit=' pictures', desc='packing')
  interruption.say_at_end('\nError: interrupted{by}.')  # not behind the bar
  try:
    count = packed_folder.pack(chosen.src, chosen.out, progress)
  except DataError as error:
    sys.exit(f'Error: {error}.')
  size = (pathlib.Path(chosen.out).expanduser() / packed_folder.RECORDS_NAME).stat().st_size
  print(f'{count:,} pictures are packed in {chosen.out} ({size / 1e6:,.1f} MB).')
  return 0


if __name__ == '__main__':
  sys.exit(main())
