"""What a long run has to survive: being asked to stop, and numbers that are not finite."""

import os
import pathlib
import signal
from types import FrameType
from typing import Any, Self

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from experiments.data.batch import Batch
from nfnets import stem, weights


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


def first_nonfinite(
  network: hk.TransformedWithState, params: Any, network_state: Any, batch: Batch
) -> list[str]:
  """Runs one device's batch forward and returns the modules that broke first, or came nearest.

  Args:
    network: the network's pure functions.
    params: parameters, before the step that went wrong.
    network_state: its state.
    batch: the batch of that step, [D, B, ...]; the first device's part is used.

  Returns:
    Up to three sentences: 'module: what its output holds', in the order of execution; the modules
    of the largest magnitude when all outputs are finite.
  """
  seen: list[str] = []

  @jax.jit
  def run(params, network_state, images):
    found = {}

    def record(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if context.method_name == '__call__' and hasattr(out, 'ndim'):
        wide = out.astype(jnp.float32)
        found[context.module.module_name] = (jnp.all(jnp.isfinite(wide)), jnp.max(jnp.abs(wide)))
      return out

    # A packed stem does not call its convolutions.
    with hk.intercept_methods(record), stem.packing('off'):
      network.apply(params, network_state, None, images, is_training=False)
    seen.extend(found)
    return found

  found = jax.device_get(run(params, network_state, batch.images[0]))
  broken = [name for name in seen if not found[name][0]]
  if broken:
    return [f'{name}: NaN or infinite values' for name in broken[:3]]
  largest = sorted(seen, key=lambda name: -found[name][1])[:3]
  return [f'{name}: finite, at most {found[name][1]:.3g} in size' for name in largest]


def write_inspection(
  workdir: pathlib.Path, step: int, params: Any, batch: Batch
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes the parameters before a broken step, and its batch, for a person to look at.

  Returns:
    The two paths: a .safetensors and an .npz file.
  """
  weights_path = workdir / f'nonfinite_step_{step}.safetensors'
  batch_path = workdir / f'nonfinite_step_{step}_batch.npz'
  weights.save(weights_path, params)
  np.savez(batch_path, **{name: np.asarray(x, np.float32) for name, x in batch._asdict().items()})
  return weights_path, batch_path
