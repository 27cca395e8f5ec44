"""What the machine does during a run: JAX's profile of some steps, and the devices' memory."""

import pathlib
import re
from typing import Any, Self

import jax

from experiments.runtime.errors import ConfigError

_GIB = 2**30


def parse(text: str) -> tuple[int, int] | None:
  """Reads 'a:b', the first and the last step of a profile; '' is none.

  Raises:
    ConfigError: it is neither.
  """
  if not text:
    return None
  found = re.fullmatch(r'(\d{1,9}):(\d{1,9})', text)
  if found is None or not 1 <= int(found[1]) <= int(found[2]):
    raise ConfigError(
      f"--config.profile must be 'a:b', the first and the last step from 1 on, got {text!r}: for "
      "example --config.profile=20:25, or '' for none."
    )
  return int(found[1]), int(found[2])


class Profile:
  """Writes JAX's profile of steps a to b into `<workdir>/profile`. A context manager.

  Look at it with TensorBoard's profile plugin or at ui.perfetto.dev.
  """

  def __init__(self, workdir: pathlib.Path, steps: str):
    """Parses `steps`, see `parse`; raises what it raises."""
    self._steps = parse(steps)
    self._directory = workdir / 'profile'
    self._running = False

  def before(self, step: int) -> None:
    """Begins if `step` is the first."""
    if self._steps is not None and step == self._steps[0]:
      jax.profiler.start_trace(self._directory)
      self._running = True

  def after(self, step: int, result: Any) -> None:
    """Ends if `step` is the last, once its `result` is there."""
    if self._running and step == self._steps[1]:
      jax.block_until_ready(result)
      self._stop()

  def _stop(self) -> None:
    jax.profiler.stop_trace()
    self._running = False

  def __enter__(self) -> Self:
    """Returns itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends a profile whose last step did not come."""
    if self._running:
      self._stop()


def device_memory() -> dict[str, float]:
  """Memory of this process's fullest device, in GiB; nothing where the backend does not say (CPU).

  Returns:
    'device_memory_gib', in use now, and 'device_memory_peak_gib', since the process started.
  """
  reports = [stats for device in jax.local_devices() if (stats := device.memory_stats())]
  names = {'device_memory_gib': 'bytes_in_use', 'device_memory_peak_gib': 'peak_bytes_in_use'}
  return {
    name: max(report[key] for report in reports) / _GIB
    for name, key in names.items()
    if reports and all(key in report for report in reports)
  }
