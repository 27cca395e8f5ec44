"""Two files of results side by side."""

import json
import pathlib
from typing import Any

from scripts.benchmarking import table
from scripts.benchmarking.table import Row


def read(path: pathlib.Path) -> dict[str, Any]:
  """Reads what `scripts/benchmark.py --out` wrote.

  Raises:
    ValueError: the file is none of these, or cannot be read.
  """
  try:
    results = json.loads(path.read_text(encoding='utf-8'))
    for row in results['results']:
      table.case_key(row), row['contestant']
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}.') from error
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is not a file that --out wrote.') from error
  return results


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[tuple[str, ...]], list[str]]:
  """Pairs the rows of two files.

  Returns:
    The lines of a table, the header first, and a sentence for each row that has no partner or no
    time, and for each difference between the machines and versions.
  """
  olds, news = ({_key(row): row for row in results['results']} for results in (old, new))
  lines = [
    ('model', 'task', 'batch', 'px', 'contestant', 'a ms', 'b ms', 'a / b', 'a MiB', 'b MiB', '')
  ]
  remarks = _differences(old, new)
  for key in dict.fromkeys([*olds, *news]):
    pair = olds.get(key), news.get(key)
    model, task, batch, size, dtype, contestant = key
    name = table.model_cell(model, dtype)
    what = f'{name} {task} {batch} x {size} px, {contestant}'
    if None in pair:
      remarks.append(f'only {"b" if pair[0] is None else "a"} has {what}.')
      continue
    failed = [letter for letter, row in zip('ab', pair, strict=True) if 'median' not in row]
    if failed:
      remarks.append(f'{what} failed in {" and ".join(failed)}.')
      continue
    ratio = pair[0]['median'] / pair[1]['median']
    noise = sum(row['spread'] for row in pair) / 2
    lines.append((
      name, task, str(batch), str(size), contestant,
      *(table.digits(1e3 * row['median']) for row in pair),
      f'{ratio:.3f}',
      *(table.mebibytes(row) for row in pair),
      'within the spread' if abs(ratio - 1) <= noise else '',
    ))  # fmt: skip
  return lines, remarks


def _key(row: Row) -> tuple:
  return (*table.case_key(row), row['contestant'])


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
  found = []
  for part in ('machine', 'versions'):
    a, b = old.get(part, {}), new.get(part, {})
    found += [
      f'{part} differ in {name}: {a.get(name)} and {b.get(name)}.'
      for name in sorted({*a, *b})
      if a.get(name) != b.get(name)
    ]
  return found
