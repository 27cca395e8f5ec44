"""Being asked to stop: SIGTERM, as schedulers and pre-emptible machines send it."""

import os
import signal
from types import FrameType
from typing import Self

import jax
from jax.experimental import multihost_utils


class Preemption:
  """Notices SIGTERM, so that the loop can save at the next step boundary. A context manager.

  A second signal ends the process at once.
  """

  def __init__(self):
    """Nothing is installed before the context is entered."""
    self._signalled = False

  def __enter__(self) -> Self:
    """Installs the handler."""
    # With several processes JAX's own notifier has to see the signal, for all to stop at one step.
    self._previous = None
    if jax.process_count() == 1:
      self._previous = signal.signal(signal.SIGTERM, self._handle)
    return self

  def __exit__(self, *_: object) -> None:
    """Puts the earlier handler back."""
    if self._previous is not None:
      signal.signal(signal.SIGTERM, self._previous)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    if self._signalled:
      os._exit(128 + number)
    self._signalled = True

  def requested(self, step: int) -> bool:
    """Whether to stop after `step`; every process gets the same answer for the same step."""
    if jax.process_count() == 1:
      return self._signalled
    return multihost_utils.reached_preemption_sync_point(step)
