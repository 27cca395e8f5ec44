#!/usr/bin/env python3
"""Measures the training input: images per CPU-second on a folder of pictures, one core.

    python scripts/benchmark_input.py FOLDER
    python scripts/benchmark_input.py FOLDER --sizes 192 --rounds 9 --out input.json
    python scripts/benchmark_input.py FOLDER --sizes 192 --cores 2 --needed 6196

FOLDER is in a layout of data.source 'folder'. Where timm and torch are installed, its loader runs
beside ours on the same files, both without mixing, taking turns in every round: once to normalised
float32, which is what ours makes, and once to bytes, which timm normalises on a GPU. 'published'
also mixes every example with a second picture, so it reads two; 'opencv' is ours with the resize
that is quicker than the exact one; ratios are of the exact one. --cores adds how the published
recipe scales: images per second of the clock with 1 and with so many threads, and processes.
--needed says how many cores prepare so many images per second: a host of v3-32 that trains F0 needs
6,196 (docs/pods.md), one of 8 GPUs eight times what one of them trains. Exit code 0: done; 1: the
folder cannot be used; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import functools
import importlib.util
import itertools
import json
import math
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from configs import base
from experiments import data
from experiments.runtime import atomic_files, output_files
from experiments.runtime.errors import ConfigError, DataError

RECIPES = ('plain', 'randaugment', 'published')  # what timm has no like of is left out for it
BATCH = 32


def ours(
  folder: str,
  size: int,
  recipe: str,
  magnitude: float,
  resize: str = 'exact',
  num_threads: int = 1,
  num_workers: int = 0,
) -> data.Batches:
  """Returns this library's batches, made one by one when asked for."""
  config = base.get_config()
  config.global_batch_size = BATCH
  config.data.update({
    'source': 'folder',
    'dir': folder,
    'image_size': size,
    'eval_image_size': size,
    'num_threads': num_threads,
    'num_workers': num_workers,
    'resize': resize,
    'augment': 'none' if recipe == 'plain' else 'randaugment',
    'randaugment_magnitude': magnitude,
    'mixing': 'mixup_cutmix' if recipe == 'published' else 'none',
  })  # fmt: skip
  settings = data.DataSettings.from_config(config)
  return data.train_batches(settings, 0, num_devices=1, layout=settings.train_layout())


def timms(
  folder: str, size: int, recipe: str, magnitude: float, as_bytes: bool = False
) -> Iterator | None:
  """Returns timm's batches, made one by one, or None where it has no such recipe.

  Without colour jitter, which ours has not either.
  """
  if recipe == 'published' or not all(map(importlib.util.find_spec, ('timm', 'torch'))):
    return None
  import torch
  from timm.data import ImageDataset, create_transform
  from timm.data.loader import fast_collate

  torch.set_num_threads(1)
  place = os.path.join(folder, 'train')
  transform = create_transform(
    size,
    is_training=True,
    use_prefetcher=as_bytes,
    interpolation='bicubic',
    color_jitter=None,
    auto_augment=None if recipe == 'plain' else f'rand-m{magnitude:g}-n4',
  )
  loader = torch.utils.data.DataLoader(
    ImageDataset(place if os.path.isdir(place) else folder, transform=transform),
    batch_size=BATCH,
    shuffle=True,
    drop_last=True,
    collate_fn=fast_collate if as_bytes else None,
  )
  return itertools.chain.from_iterable(itertools.repeat(loader))


MAKERS: dict[str, Callable] = {
  'nfnets': ours,
  'opencv': functools.partial(ours, resize='opencv'),
  'timm': timms,
  'timm, bytes': functools.partial(timms, as_bytes=True),
}


def rate(batches: Iterator, count: int) -> float:
  """Returns images per second of CPU time, all threads of this process together."""
  next(batches)
  began = time.process_time()
  for _ in range(count):
    next(batches)
  return count * BATCH / (time.process_time() - began)


def measure(folder: str, sizes: list[int], magnitude: float, rounds: int, count: int) -> list[dict]:
  """Returns one row per size, recipe and loader: the rates of the rounds and their median."""
  rows = {}
  interruption.say_at_end('\nError: interrupted{by}.')  # not behind the number of the round
  for number, size, recipe, name in itertools.product(range(rounds), sizes, RECIPES, MAKERS):
    batches = MAKERS[name](folder, size, recipe, magnitude)
    if batches is not None:
      rows.setdefault((size, recipe, name), []).append(rate(batches, count))
      if isinstance(batches, data.Batches):
        batches.close()
    print(f'\rround {number + 1} of {rounds}', end='', file=sys.stderr, flush=True)
  print(file=sys.stderr)
  return [
    {
      'size': size,
      'recipe': recipe,
      'loader': name,
      'images_per_cpu_second': statistics.median(rates),
      'rounds': rates,
    }
    for (size, recipe, name), rates in rows.items()
  ]


def scaling(
  folder: str, size: int, magnitude: float, rounds: int, count: int, cores: int
) -> list[dict]:
  """Returns a row for 1 and for so many threads and processes: images per second of the clock."""
  ways = [(n, 0) for n in sorted({1, cores})] + [(1, n) for n in sorted({1, cores})]
  rows = []
  for threads, workers in ways:
    with ours(folder, size, 'published', magnitude, 'exact', threads, workers) as batches:
      # What was made while the first was waited for must not count as quick.
      for _ in range(4 * max(workers, 1)):
        next(batches)
      rates = []
      for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(count * cores):
          next(batches)
        rates.append(count * cores * BATCH / (time.perf_counter() - began))
    rows.append({
      'size': size, 'threads': threads, 'processes': workers,
      'images_per_second': statistics.median(rates), 'rounds': rates,
    })  # fmt: skip
  return rows


def scaling_lines(rows: list[dict]) -> list[str]:
  """Says what each way gives over one thread or one process."""
  lines = []
  for row in rows:
    kind = 'processes' if row['processes'] else 'threads'
    alone = {'threads': 1, 'processes': int(kind == 'processes')}
    one = next(r for r in rows if r['size'] == row['size'] and alone.items() <= r.items())
    rate = row['images_per_second']
    times = rate / one['images_per_second']
    lines.append(f'{row["size"]:4d}  {row[kind]} {kind}: {rate:.0f} images/s, {times:.2f} of one')
  return lines


def needed_lines(rows: list[dict], needed: float) -> list[str]:
  """Says how many cores of this machine make so many images per second."""
  return [
    f'{row["size"]:4d}  {row["recipe"]}: {needed:,.0f} images/s take '
    f'{math.ceil(needed / row["images_per_cpu_second"])} cores like these'
    for row in rows
    if row['loader'] == 'nfnets'
  ]


def table(rows: list[dict]) -> str:
  """Formats the medians of images per CPU-second, and the ratios of ours to timm's."""
  medians = {(r['size'], r['recipe'], r['loader']): r['images_per_cpu_second'] for r in rows}
  lines = ['  px  recipe       nfnets  opencv     timm  ratio   timm, bytes  ratio']
  for size, recipe in dict.fromkeys((r['size'], r['recipe']) for r in rows):
    mine, quicker, *others = (medians.get((size, recipe, name)) for name in MAKERS)
    line = f'{size:4d}  {recipe:11s}  {mine:6.0f}  {quicker:6.0f}'
    for other, width in zip(others, (7, 12), strict=True):
      line += (
        f'  {other:{width}.0f}  {mine / other:5.2f}' if other else f'  {"-":>{width}}  {"-":>5}'
      )
    lines.append(line)
  return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
  """Measures, prints the table and writes the JSON."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folder', metavar='FOLDER')
  parser.add_argument('--sizes', type=int, nargs='+', default=[192, 320], help='pixels %(default)s')
  parser.add_argument('--magnitude', type=float, default=5, help='of RandAugment [%(default)s]')
  parser.add_argument('--rounds', type=int, default=5, help='medians are over these [%(default)s]')
  parser.add_argument('--batches', type=int, default=4, help=f'of {BATCH} a round [%(default)s]')
  parser.add_argument('--cores', type=int, help='threads and processes to compare with 1, e.g. 2')
  parser.add_argument('--needed', type=float, help='images per second that are to be prepared')
  parser.add_argument('--out', help='write all figures to this JSON file')
  chosen = parser.parse_args(argv)
  try:
    if chosen.out:
      output_files.require(chosen.out, '--out', suffixes=('.json',))
  except ConfigError as error:
    parser.error(str(error))
  rounds, count, scaled = max(chosen.rounds, 1), max(chosen.batches, 1), []
  try:
    rows = measure(chosen.folder, chosen.sizes, chosen.magnitude, rounds, count)
    for size in chosen.sizes if chosen.cores else ():
      scaled += scaling(chosen.folder, size, chosen.magnitude, rounds, count, max(chosen.cores, 1))
  except DataError as error:
    sys.exit(f'Error: {error}.')
  print(table(rows))
  more = scaling_lines(scaled) + (needed_lines(rows, chosen.needed) if chosen.needed else [])
  if more:
    print(*more, sep='\n')
  if chosen.out:
    machine = {'processor': platform.processor() or platform.machine(), 'cores': os.cpu_count()}
    figures = {'machine': machine, 'magnitude': chosen.magnitude, 'results': rows}
    figures |= {'scaling': scaled} if scaled else {}
    text = json.dumps(figures, indent=2)
    atomic_files.replace(pathlib.Path(chosen.out), lambda p: p.write_text(text, encoding='utf-8'))
    print(f'Wrote {chosen.out}.', file=sys.stderr)
  return 0


if __name__ == '__main__':
  sys.exit(main())
