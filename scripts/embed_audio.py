#!/usr/bin/env python3
"""Turns a folder of sounds into vectors, one for each file.

    nfnets embed-audio sounds/ --weights runs/sounds --out embeddings.npz

FOLDER is searched at every depth for WAV, FLAC, Ogg, MP3, AIFF and AU files. OUT gets the arrays
`names` [N], `embeddings` [N, D] float32, `seconds` [N] and `notes` [N], and `skipped` with
`reasons`: what could not be used, and why. What happened to each odd file is printed as well.

A vector is the mean over excerpts that cover the sound, of the features before the classifier.
Exit code 0: all done; 1: some or all failed; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import os
import pathlib
import sys
from typing import NamedTuple

import numpy as np

import nfnets
from experiments.runtime import compilation_cache, output_files, platforms, waiting
from experiments.runtime.errors import ConfigError
from nfnets import picture_files, sound_files
from nfnets.weights.atomic import replacing

_ROWS = 50  # of the table that is printed


class Row(NamedTuple):
  """What became of a file."""

  name: str
  embedding: np.ndarray | None  # None: it could not be used
  seconds: float
  notes: str


def main(argv: list[str] | None = None) -> int:
  """Embeds what the arguments name; returns the exit code."""
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors='backslashreplace')  # a terminal may lack a letter of a file name
  args = _parse(argv)
  try:
    return _embed(args)
  except (ImportError, OSError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('folder', type=pathlib.Path, metavar='FOLDER', help='the folder of sounds')
  add('--weights', required=True, help="a file of weights for sounds, or a run's folder")
  add('--out', type=pathlib.Path, required=True, metavar='NPZ', help='the file to write')
  add(
    '--max-seconds',
    type=float,
    default=60.0,
    help='of a longer sound, so many in its middle are heard (default: 60)',
  )
  args = parser.parse_args(argv)
  if not 0 < args.max_seconds <= sound_files.MOST_SECONDS:
    parser.error(f'--max-seconds must be above 0 and at most {sound_files.MOST_SECONDS:,.0f}')
  try:
    output_files.require(args.out, '--out', suffixes=('.npz',), inputs=[args.weights])
  except ConfigError as error:
    parser.error(str(error))
  return args


@platforms.explained()
def _embed(args: argparse.Namespace) -> int:
  if not args.folder.is_dir():
    raise NotADirectoryError(f'{args.folder} is not a folder of sounds')
  sound_files.require()
  left_out = picture_files.Skipped(args.folder)
  paths = list(picture_files.walk(args.folder, args.folder.resolve(), left_out, sound_files.SOUNDS))
  if left_out:
    print(left_out, file=sys.stderr)
  if not paths:
    endings = ', '.join(sound_files.SOUNDS.endings)
    raise ValueError(f'no file in {args.folder} ends in {endings}.')
  compilation_cache.enable()
  embedder = nfnets.Embedder.from_pretrained(args.weights)
  print(f'Sounds are prepared so: {embedder.preprocessing}.', file=sys.stderr)
  countdown, rows = waiting.Countdown(len(paths), noun='sounds'), []
  for path in paths:
    rows.append(embed_file(embedder, path, args))
    countdown.reached(len(rows))
  _write(args.out, rows)
  _print_table(rows)
  failed = sum(row.embedding is None for row in rows)
  print(f'{len(rows) - failed} of {len(rows)} sounds are in {args.out}.')
  return 1 if failed else 0


def embed_file(embedder: nfnets.Embedder, path: str, args: argparse.Namespace) -> Row:
  """Returns what becomes of a file."""
  name = picture_files.printable(os.path.relpath(path, args.folder))
  try:
    sound = sound_files.read(path, args.max_seconds)
  except (OSError, ValueError) as error:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return Row(name, None, 0.0, reason)
  notes, excerpt = list(sound.notes), embedder.preprocessing.seconds
  if sound.seconds < excerpt:
    notes.append(f'{sound.seconds:.3g} s padded to {excerpt:g} s')
  if sound.seconds > args.max_seconds:
    notes.append(f'the middle {args.max_seconds:g} s of {sound.seconds:,.0f} s')
  return Row(name, embedder(sound.wave), sound.seconds, '; '.join(notes))


def _write(out: pathlib.Path, rows: list[Row]) -> None:
  used = [row for row in rows if row.embedding is not None]
  failed = [row for row in rows if row.embedding is None]
  with replacing(out) as temporary, temporary.open('wb') as file:
    np.savez(
      file,
      names=np.array([row.name for row in used], dtype=str),
      embeddings=np.array([row.embedding for row in used], np.float32),
      seconds=np.array([row.seconds for row in used]),
      notes=np.array([row.notes for row in used], dtype=str),
      skipped=np.array([row.name for row in failed], dtype=str),
      reasons=np.array([row.notes for row in failed], dtype=str),
    )


def _print_table(rows: list[Row]) -> None:
  """Prints what happened to each file that is not as the network takes it."""
  odd = [row for row in rows if row.notes]
  if not odd:
    return
  width = max(len(row.name) for row in odd[:_ROWS])
  for row in odd[:_ROWS]:
    prefix = 'skipped: ' if row.embedding is None else ''
    print(f'{row.name:{width}}  {prefix}{row.notes}')
  if len(odd) > _ROWS:
    print(f'... and {len(odd) - _ROWS} more.')


if __name__ == '__main__':
  sys.exit(main())
