"""What a person is told who waits: what is being done, at what rate, and how long it will take."""

import math
import sys
import time
from collections.abc import Callable

import jax

from experiments.runtime import processes

_SECONDS_BETWEEN_LINES = 15


def compiling(what: str) -> str:
  """Returns the line that goes before the silence of a compilation.

  Args:
    what: is compiled, e.g. 'the train step'.
  """
  about = 'a minute' if jax.default_backend() == 'cpu' else 'a minute or two'
  return f'Compiling {what}, once: about {about} on a {jax.default_backend().upper()}.'


class Countdown:
  """Lines on standard error, four a minute at most, while many pictures are worked through."""

  def __init__(
    self,
    total: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    noun: str = 'images',
  ):
    """Takes the number of pictures, if it is known, what returns seconds, and what to call them."""
    self._total, self._clock, self._noun = total, clock, noun
    self._first: tuple[int, float] | None = None
    self._last_line = clock()

  def reached(self, done: int) -> None:
    """Says how far it is, if it is time; the pictures of the first call, which compiled, set the
    clock going and do not count for the rate.
    """
    now = self._clock()
    if self._first is None:
      self._first = done, now
      return
    if now - self._last_line <= _SECONDS_BETWEEN_LINES or not processes.is_main():
      return
    self._last_line = now
    began_at, began = self._first
    rate = (done - began_at) / (now - began) if now > began else 0.0
    of_all = '' if self._total is None else f' of {self._total:,}'
    parts = [f'{done:,}{of_all} {self._noun}']
    parts.append(f'{rate:.{0 if rate >= 10 else 1}f} {self._noun}/s')
    if self._total is not None:
      left = (self._total - done) / rate if rate > 0 else math.nan
      parts.append(f'ETA {format_seconds(left)}')
    print(f'... {", ".join(parts)}', file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
  """Formats a duration with its two largest units: '45s', '3m12s', '2h05m', '3d04h'; NaN is '-'."""
  if not math.isfinite(seconds):
    return '-'
  total = max(round(seconds), 0)
  if total < 60:
    return f'{total}s'
  if total < 3600:
    return f'{total // 60}m{total % 60:02d}s'
  if total < 86400:
    return f'{total // 3600}h{total % 3600 // 60:02d}m'
  return f'{total // 86400}d{total % 86400 // 3600:02d}h'
