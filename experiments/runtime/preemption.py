"""Being asked to stop: SIGTERM, as schedulers and pre-emptible machines send it, Ctrl-C, SIGHUP."""

import contextlib
from typing import Self

import jax
from jax.experimental import multihost_utils

from nfnets import interruption

_PROMISE = 'finishing this step and saving. A second signal ends at once.'


class Preemption:
  """Notices the first signal, so that the loop can save at the next step boundary.

  A context manager. A second signal ends the process at once.
  """

  def __init__(self, after_a_step: bool = False):
    """Nothing changes before the context is entered.

    Args:
      after_a_step: until `requested` is first called there is nothing to save, so that the first
        signal ends the process as well.
    """
    self._after_a_step = after_a_step
    self._stack = contextlib.ExitStack()
    self._graceful = False

  def __enter__(self) -> Self:
    """Starts to listen."""
    if interruption.listen():
      self._stack.callback(interruption.stop_listening)
    if not self._after_a_step:
      self._be_graceful()
    return self

  def __exit__(self, *_: object) -> None:
    """From here on the first signal ends the process, if it did before."""
    self._stack.close()

  def _be_graceful(self) -> None:
    if not self._graceful:
      # With several processes JAX's own notifier has to see SIGTERM, for all to stop at one step.
      forward = jax.process_count() > 1
      self._stack.enter_context(interruption.graceful(forward=forward, promise=_PROMISE))
      self._graceful = True

  def requested(self, step: int) -> bool:
    """Whether to stop after `step`; every process gets the same answer for the same step."""
    self._be_graceful()
    if jax.process_count() == 1:
      return interruption.asked()
    return multihost_utils.reached_preemption_sync_point(step)
