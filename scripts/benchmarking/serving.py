"""The side of a worker: it does what the lines on its standard input say, one JSON object each.

Standard library only: this file runs wherever a worker does, whatever is installed there.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from scripts.benchmarking import memory

WARM_UP_SECONDS = 1.0
WARM_UP_CALLS = (2, 20)  # at least, at most
CLOCK = 'NFNETS_BENCHMARK_CLOCK'  # a variable; 'processor': what this process computed counts
CEILING_SIZES = (512, 1024, 2048, 4096, 8192, 16384)


class Worker:
  """Times one contestant at one task. What a framework needs is in its subclass.

  Public methods can be asked for by name; their arguments and results go through JSON.
  """

  def __init__(self):
    """Nothing is prepared yet."""
    self._call: Callable[[], Any] | None = None
    self._resident = self._idle = 0
    is_processor = os.environ.get(CLOCK) == 'processor'
    self._clock = time.process_time if is_processor else time.perf_counter
    # Processor time of threads that are running is known a little late.
    self._typical = statistics.fmean if is_processor else min

  def build(self, **case: Any) -> Callable[[], Any]:
    """Returns a function that does the task once and returns when its result is there."""
    raise NotImplementedError

  def device_memory(self) -> int | None:
    """The largest number of bytes that were in use on the device; None where it is the host."""
    return None

  def reset_device_memory(self) -> None:
    """Forgets the largest number, where the framework can."""

  def product(self, size: int, dtype: str) -> Callable[[], Any]:
    """Returns a function that multiplies two matrices [size, size] and waits for the result."""
    raise NotImplementedError

  def prepare(self, **case: Any) -> dict[str, Any]:
    """Builds the model and warms up.

    Returns:
      'first_seconds', those of the first call with its compilation, and 'seconds' of a warm one.
    """
    self._resident = memory.resident()
    self._call = self.build(**case)
    began = self._clock()
    self._call()
    first = self._clock() - began
    seconds = []
    least, most = WARM_UP_CALLS
    while len(seconds) < least or (sum(seconds) < WARM_UP_SECONDS and len(seconds) < most):
      seconds += self.time(calls=1)['seconds']
    memory.reset_peak()
    self._idle = memory.resident()
    self.reset_device_memory()
    return {'first_seconds': first, 'seconds': statistics.median(seconds)}

  def time(self, calls: int, untimed: int = 0) -> dict[str, list[float]]:
    """Returns the seconds of each of so many calls, after some that are not timed."""
    for _ in range(untimed):
      self._call()
    seconds = []
    for _ in range(calls):
      began = self._clock()
      self._call()
      seconds.append(self._clock() - began)
    return {'seconds': seconds}

  def memory(self) -> dict[str, int | str]:
    """Returns the largest number of bytes since the warm-up.

    Returns:
      'memory_of': 'device' or 'host'. 'peak_memory_bytes': of the device, or the growth of this
      process since its libraries were loaded. 'call_memory_bytes', only of the host: what of it
      came and went with the calls.
    """
    on_device = self.device_memory()
    if on_device is not None:
      return {'memory_of': 'device', 'peak_memory_bytes': on_device}
    peak = memory.peak()
    return {
      'memory_of': 'host',
      'peak_memory_bytes': peak - self._resident,
      'call_memory_bytes': max(peak - self._idle, 0),
    }

  def measure_ceiling(self, dtype: str, seconds: float = 0.5) -> dict[str, Any]:
    """Returns the highest 'flops_per_second' of square matrix products, and all 'by_size'.

    Each is the best of as many products as so many seconds allow, at least one, in processor time
    their mean; sizes double until one product would take more than twice as long.
    """
    rates = {}
    for size in CEILING_SIZES:
      multiply = self.product(size, dtype)
      multiply()
      times, began = [], self._clock()
      while not times or self._clock() - began < seconds:
        start = self._clock()
        multiply()
        times.append(self._clock() - start)
      typical = self._typical(times)
      rates[str(size)] = 2 * size**3 / typical
      if 8 * typical > 2 * seconds:  # what the next size would take
        break
    return {'flops_per_second': max(rates.values()), 'by_size': rates}


def serve(make_worker: Callable[[], Any]) -> None:
  """Answers until standard input ends. What else is printed goes to standard error."""
  answers = os.fdopen(os.dup(sys.stdout.fileno()), 'w', encoding='utf-8')
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  worker = None
  for line in sys.stdin:
    request = json.loads(line)
    try:
      worker = worker or make_worker()
      answer = getattr(worker, request.pop('ask'))(**request)
    except Exception as error:  # of any library: the parent makes it a row
      answer = {'error': sentence(error)}
    print(json.dumps(answer), file=answers, flush=True)
  # Without the frameworks' own clean-up, which may take seconds and cannot matter now.
  os._exit(0)


def sentence(error: BaseException, limit: int = 300) -> str:
  """An exception as one line."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= limit else f'{text[: limit - 1]}…'
