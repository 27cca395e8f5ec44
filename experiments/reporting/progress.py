"""How a run goes, on the console: lines with throughput and time left, and what they are from."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping

import jax

from experiments.reporting.recording import MetricWriter
from experiments.runtime import processes, profiling
from experiments.runtime.waiting import format_seconds
from experiments.training.privacy_budget import Budget

_NOTABLE_WAIT = 0.05  # share of the time that the console line mentions


class Progress:
  """Console lines with the throughput since the last line and the time left at that rate."""

  def __init__(
    self,
    *,
    total_steps: int,
    steps_per_epoch: float,
    images_per_step: int,
    start_step: int = 0,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts the first window now.

    Args:
      total_steps: number of updates of the whole run.
      steps_per_epoch: may be fractional.
      images_per_step: global batch size.
      start_step: number of updates made before this process started.
      clock: returns seconds.
    """
    self._total, self._steps_per_epoch = total_steps, steps_per_epoch
    self._images_per_step, self._clock = images_per_step, clock
    self.restart(start_step)

  def restart(self, step: int) -> None:
    """Begins a new window at `step`, so that an evaluation or a compilation is not counted."""
    self._window = (step, self._clock())
    self._waited = 0.0

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Counts the time spent inside as waiting for the input."""
    began = self._clock()
    yield
    self._waited += self._clock() - began

  def data_wait_share(self) -> float:
    """Share of the current window spent waiting for the input, in 0..1."""
    seconds = self._clock() - self._window[1]
    return self._waited / seconds if seconds > 0 else 0.0

  def images_per_second(self, step: int) -> float:
    """Rate over the current window, over all devices; NaN while it is empty."""
    seconds = self._clock() - self._window[1]
    steps = step - self._window[0]
    return steps * self._images_per_step / seconds if steps > 0 and seconds > 0 else math.nan

  def speeds(self, step: int) -> dict[str, float]:
    """'data_wait_share'; of a window with steps 'images_per_second' and 'seconds_per_step' too."""
    values = {'data_wait_share': self.data_wait_share()}
    rate = self.images_per_second(step)
    if not math.isnan(rate):
      values |= {'images_per_second': rate, 'seconds_per_step': self._images_per_step / rate}
    return values

  def line(
    self, step: int, *, loss: float, learning_rate: float, epsilon: float | None = None
  ) -> str:
    """Formats the state after `step` updates and begins a new window.

    Args:
      step: number of updates made.
      loss: of the last.
      learning_rate: of the last.
      epsilon: that a private run has spent.

    Returns:
      E.g. 'step 1200/5600  epoch 21.4/100  loss 0.1234  lr 0.0400  1523 images/s  ETA 3m12s'; rate
      and time left are '-' where the window is empty.
    """
    rate, waiting = self.images_per_second(step), self.data_wait_share()
    self.restart(step)
    known = not math.isnan(rate)
    speed = f'{rate:.{0 if rate >= 100 else 1}f}' if known else '-'
    left = (self._total - step) * self._images_per_step / rate if known else math.nan
    tiny = 0 < abs(learning_rate) < 1e-3
    parts = [
      f'step {step:{len(str(self._total))}d}/{self._total}',
      f'epoch {step / self._steps_per_epoch:.1f}/{self._total / self._steps_per_epoch:.4g}',
      f'loss {loss:.4f}',
      f'lr {learning_rate:.2e}' if tiny else f'lr {learning_rate:.4f}',
      f'{speed} images/s',
      f'ETA {format_seconds(left)}',
    ]
    if epsilon is not None:
      parts.append(f'epsilon {epsilon:.3g}')
    if waiting > _NOTABLE_WAIT:
      parts.append(f'{waiting:.0%} waiting for data')
    return '  '.join(parts)


class StepLog:
  """Records the steps of a run, every so many of them, and says how it goes."""

  def __init__(
    self, writer: MetricWriter, progress: Progress, *, every: int, first: int, last: int
  ):
    """Logs each step of a multiple of `every`, and the first and the last of this process."""
    self._writer, self._progress = writer, progress
    self._every, self._ends = every, (first, last)

  def due(self, step: int) -> bool:
    """Whether `step` is one of those."""
    return step % self._every == 0 or step in self._ends

  def write(
    self,
    step: int,
    step_metrics: Mapping[str, jax.Array],
    more: Mapping[str, float] | None = None,
    budget: Budget | None = None,
  ) -> None:
    """Records a step as 'train/<name>', with speeds and memory, and prints its line.

    Args:
      step: number of updates made.
      step_metrics: of the train step, 'loss' and 'learning_rate' among them. To wait for none,
        give those of a step that is finished.
      more: figures beside them.
      budget: of a private run; what it has spent is recorded as well.
    """
    fetched = jax.device_get(dict(step_metrics))  # all in one go
    values = {name: float(value) for name, value in fetched.items()}
    values |= self._progress.speeds(step) | profiling.device_memory() | (more or {})
    if budget is not None:
      values |= {'epsilon': budget.spent(step), 'delta': budget.delta}
    self._writer.write(step, {f'train/{name}': value for name, value in values.items()})
    shown = ('loss', 'learning_rate', 'epsilon')
    processes.say(self._progress.line(step, **{k: values[k] for k in shown if k in values}))

  def write_test(self, step: int, results: Mapping[str, float]) -> None:
    """Records the figures of an evaluation as 'test/<name>'."""
    self._writer.write(step, {f'test/{name}': value for name, value in results.items()})
