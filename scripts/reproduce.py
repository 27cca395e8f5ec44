"""Tries a claim of the papers on pictures of yours: runs, rows, a figure, and what they show.

python scripts/reproduce.py small_batch --data digits --out runs/claims
python scripts/reproduce.py small_batch --data runs/fashion_mnist --out runs/claims
python scripts/reproduce.py --list

Writes CLAIM.json, a row for each run, and CLAIM.png into --out. Runs that are there, with the same
arguments, are not repeated: what was interrupted goes on with the same command.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen(at_once=True)  # before the imports that take time

import argparse
import pathlib
import sys

from experiments.reporting import plot_style
from experiments.runtime import compilation_cache, local_paths, output_files, platforms
from experiments.runtime.errors import ConfigError
from nfnets import host_memory
from scripts.reproducing import pictures
from scripts.reproducing.claims import CLAIMS
from scripts.reproducing.rows import Rows


def _parse(argv: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('claim', metavar='CLAIM', nargs='?', help=f'one of {", ".join(CLAIMS)}')
  parser.add_argument(
    '--data',
    default=pictures.DIGITS,
    help="a folder with a folder for each class, a TFDS name, or 'digits' [%(default)s]",
  )
  parser.add_argument('--tfds-dir', default='', help="TFDS's data directory; default: its own")
  parser.add_argument('--out', default='runs/claims', help='folder of the results [%(default)s]')
  parser.add_argument('--quick', action='store_true', help='few and short runs: minutes')
  parser.add_argument('--list', action='store_true', help='say what is claimed, and run nothing')
  options = parser.parse_args(argv)
  if not options.list and options.claim not in CLAIMS:
    given = f'got {options.claim!r}' if options.claim else 'none was given'
    parser.error(f'CLAIM must be one of {", ".join(CLAIMS)}; {given}')
  return options


def _outputs(folder: str, name: str) -> tuple[pathlib.Path, pathlib.Path]:
  """The files of rows and of the figure, checked before the work."""
  place = local_paths.require(folder, '--out').expanduser()
  if place.exists() and not place.is_dir():
    raise ConfigError(f'--out={place} is a file: give the name of a folder')
  numbers, figure = (
    output_files.require(place / f'{name}{suffix}', '--out', make_folder=True)
    for suffix in ('.json', '.png')
  )
  return numbers, figure


def main(argv: list[str] | None = None) -> int:
  """Runs what the arguments say."""
  options = _parse(argv)
  if options.list:
    for claim in CLAIMS.values():
      print(f'{claim.name}: {claim.statement} {claim.source}')
    return 0
  claim = CLAIMS[options.claim]
  numbers, figure = _outputs(options.out, claim.name)
  title = pictures.title_of(options.data, options.tfds_dir)
  arguments = {'claim': claim.name, 'data': title, 'quick': options.quick}
  rows = Rows(numbers, arguments)
  compilation_cache.enable()
  found = pictures.load(options.data, claim.count(options.quick), tfds_dir=options.tfds_dir)
  print(
    f'{claim.statement} {claim.source}\n{title}: {len(found.train.labels):,} pictures to '
    f'train on, {len(found.choose.labels):,} to choose by, {len(found.test.labels):,} to test',
    flush=True,
  )
  results = claim.run(found, rows, quick=options.quick)
  plot_style.save(claim.draw(results), figure)
  for line in claim.say(results):
    print(line)
  minutes = sum(row['seconds'] for row in results) / 60
  print(f'{len(results)} runs and measurements, {minutes:.1f} minutes.')
  print(f'Wrote {numbers} and {figure}.')
  return 0


if __name__ == '__main__':
  try:
    if not host_memory.accelerator_is_installed():
      host_memory.keep_freed_memory()  # a third of the time of a step with a large batch
    with platforms.explained():
      sys.exit(main())
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
