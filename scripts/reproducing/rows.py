"""Results on disk, a row for each run: what is there is not measured again."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from experiments.runtime import atomic_files
from experiments.runtime.errors import ConfigError
from experiments.runtime.waiting import format_seconds
from nfnets import interruption

Row = dict[str, Any]
_MOST_BYTES = 2**26  # of a file that is read: another program's may be of any size
# Fields that the lines on the way leave out.
_QUIET = ('network', 'depth', 'slices', 'clip_classifier', 'mixing', 'steps', 'finite')


class Rows:
  """The rows of one file, by the keys that a result follows from."""

  def __init__(self, path: pathlib.Path, arguments: Mapping[str, Any]):
    """Reads the file, if there is one.

    Args:
      path: of the JSON file.
      arguments: what all rows have in common.

    Raises:
      ConfigError: it has rows of other arguments, or is another program's.
    """
    self.path, self.arguments = path, dict(arguments)
    self._rows: list[Row] = []
    self._began, self._measured, self._total, self._done = time.monotonic(), 0, 0, 0
    if path.exists():
      self._rows = self._read()
      self._promise()

  def _read(self) -> list[Row]:
    try:
      if self.path.stat().st_size > _MOST_BYTES:
        raise ValueError
      found = json.loads(self.path.read_text())
      arguments, rows = dict(found['arguments']), [dict(row) for row in found['rows']]
    except (KeyError, TypeError, ValueError):
      raise ConfigError(
        f'{self.path}, where the numbers would go, is no file of this script: choose another --out'
      ) from None
    for name, value in self.arguments.items():
      if arguments.get(name) != value:
        raise ConfigError(
          f'{self.path} has runs with {name} {arguments.get(name)}, and these are with {value}: '
          'choose another --out, or the same arguments'
        )
    return rows

  def expect(self, count: int) -> None:
    """Says how many rows there will be, for the time left."""
    self._total = count

  def get(self, key: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
    """Returns the row of a key, measured and written to the file if it is not there."""
    self._done += 1
    for row in self._rows:
      if all(row.get(name) == value for name, value in key.items()):
        return row
    began = time.monotonic()
    row = {**key, **measure()}
    row['seconds'] = round(time.monotonic() - began, 2)
    self._rows.append(row)
    lines = ',\n'.join(f'  {json.dumps(row)}' for row in self._rows)
    text = f'{{\n "arguments": {json.dumps(self.arguments)},\n "rows": [\n{lines}\n ]\n}}\n'
    atomic_files.replace(self.path, lambda path: path.write_text(text))
    self._promise()
    self._measured += 1
    print(self._line(row), flush=True)
    return row

  def _line(self, row: Row) -> str:
    """What a measured row came to, the rate and the time left."""
    per_row = (time.monotonic() - self._began) / self._measured
    left = format_seconds(per_row * (self._total - self._done))
    shown = {name: value for name, value in row.items() if name not in _QUIET}
    fields = '  '.join(f'{name} {_short(value)}' for name, value in shown.items())
    return f'[{self._done}/{self._total}] {fields}  {60 / per_row:.1f} runs/min  ETA {left}'

  def _promise(self) -> None:
    interruption.explain(lambda: f'{self.path} has the runs that are done.')


def _short(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)
