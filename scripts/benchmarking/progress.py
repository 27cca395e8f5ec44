"""How far a measurement is."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

_Item = TypeVar('_Item')


class Progress:
  """Says on standard error what is going on and how long the rest will take."""

  def __init__(self):
    """Nothing has begun."""
    self._number = self._total = 0
    self._began = self._cases_began = time.monotonic()
    self._width = 0

  def over(self, cases: Sequence[_Item]) -> Iterator[_Item]:
    """Yields the cases and counts them."""
    self._total, self._cases_began = len(cases), time.monotonic()
    for self._number, case in enumerate(cases, start=1):
      yield case
    self._line('')

  def say(self, text: str) -> None:
    """Shows one line; on a terminal in place of the one before."""
    now = time.monotonic()
    line = f'{now - self._began:6.0f} s  '
    if self._total:
      line += f'[{self._number}/{self._total}] '
    done = self._number - 1
    left = ''
    if done > 0:
      minutes = (now - self._cases_began) / done * (self._total - done) / 60
      left = f' (about {minutes:.0f} min left)'
    self._line(line + text + left)

  def _line(self, line: str) -> None:
    if sys.stderr.isatty():
      print(f'\r{line:{self._width}s}', end='', file=sys.stderr, flush=True)
      self._width = len(line)
    elif line:
      print(line, file=sys.stderr, flush=True)
