"""Losses and gradients that are not finite: what a run does about them, and where they came from.

The step itself leaves a broken update out (`steps.make_train_step`) and says so in its metrics.
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.batch import Batch, ImageLayout
from experiments.runtime import processes
from experiments.runtime.errors import NonFiniteError
from experiments.training.steps import TrainState
from nfnets import execution, weights

CHOICES = ('stop', 'skip')
MOST_SKIPPED = 100  # broken steps in a row, the last of which ends the run
_ADVICE = ('A lower --config.optimizer.learning_rate', 'a smaller --config.optimizer.clipping')
_EXAMPLES_AT_ONCE = 8  # of a look at a broken step, which must not need more memory than the step


@dataclasses.dataclass
class Policy:
  """What a run does about a broken step: it stops and leaves what a person needs, or goes on.

  Attributes:
    choice: one of CHOICES. 'skip' stops as well after MOST_SKIPPED steps in a row.
    workdir: takes the parameters and the batch of the step that ends the run.
    network: the network's pure functions.
    layout: of the images in the batches.
    gather: makes a state's parameters whole, `steps.make_gather`; all processes call it.
  """

  choice: str
  workdir: pathlib.Path
  network: hk.TransformedWithState
  layout: ImageLayout
  gather: Callable[[Any], Any] = lambda params: params
  _skipped: int = 0  # in a row

  def halts(self, step_metrics: dict[str, jax.Array]) -> Any:
    """What to hand to the next step: that it must leave the state alone if this one broke.

    So the newest state has the parameters of the broken step when the host comes to know of it,
    steps later. The value stays on the device: nothing waits for it.
    """
    return step_metrics['nonfinite'] if self.choice == 'stop' else np.float32(0)

  def check(
    self, step: int, step_metrics: dict[str, jax.Array], batch: Batch, state: TrainState
  ) -> None:
    """Looks at a finished step; all processes must.

    Args:
      step: its number, from 1.
      step_metrics: as the train step returned them.
      batch: that it was given.
      state: the newest one, whose parameters are those of the broken step.

    Raises:
      NonFiniteError: the step broke, and the choice is 'stop', or too many were skipped.
    """
    if not step_metrics['nonfinite']:
      self._skipped = 0
      return
    self._skipped += 1
    if self.choice == 'skip' and self._skipped < MOST_SKIPPED:
      processes.say(f'step {step} was left out: its loss or gradient is not finite.')
      return
    rate, loss = (float(step_metrics[name]) for name in ('learning_rate', 'loss'))
    batch = batch._replace(images=self.layout.restore(batch.images))
    files, params = (), self.gather(state.params)
    if processes.is_main():  # before the look, which takes memory that there may not be
      files = write_inspection(self.workdir, step, params, batch)
    try:
      where = '; '.join(first_nonfinite(self.network, params, state.network_state, batch))
    except Exception as error:  # of a device without memory for it, most likely
      where = f'unknown, the look at it failed ({" ".join(str(error).split())[:200]})'
    kept = (self.workdir / 'checkpoints').exists()  # a linear probe has none
    many = f', as of the {self._skipped - 1} steps before it,' if self.choice == 'skip' else ''
    advice = f'{", ".join(_ADVICE)} or --config.on_nonfinite=skip may help'
    if self.choice == 'skip':
      advice = f'A run ends with {MOST_SKIPPED} of them in a row. {" or ".join(_ADVICE)} may help'
    raise NonFiniteError(
      f'The loss ({loss}) or gradient of step {step}{many} is not finite, at '
      f'learning rate {rate:.3g}. In its forward pass: {where}. Its parameters and batch are in '
      f'{" and ".join(map(str, files)) or self.workdir}. {advice}; the same command starts again '
      f'at the {"last checkpoint" if kept else "beginning"}.'
    )

  def check_end(self, state: TrainState) -> None:
    """Looks at the parameters after the last step, whose update no later step has judged.

    Raises:
      NonFiniteError: some are NaN or infinite.
    """
    for module, entries in self.gather(state.params).items():
      for name, value in entries.items():
        value = value.addressable_data(0) if isinstance(value, jax.Array) else value
        if not np.all(np.isfinite(value)):
          raise NonFiniteError(
            f'The last update made {module}/{name} NaN or infinite, so no weights are written. '
            f'{" or ".join(_ADVICE)} may help.'
          )


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
    of the largest magnitude when all outputs are finite. A network without modules has its outputs
    in their place.
  """
  seen: list[str] = []

  @jax.jit
  def run(params, network_state, images):
    found = {}

    def record(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if context.method_name == '__call__' and hasattr(out, 'ndim'):
        found[context.module.module_name] = _finite_and_size(out)
      return out

    # A packed stem does not call its convolutions.
    with hk.intercept_methods(record), execution.strategy(space_to_depth='off'):
      out, _ = network.apply(params, network_state, None, images, is_training=False)
    if not found:  # the classifier of a linear probe, which has no modules
      found = {name: _finite_and_size(value) for name, value in out.items()}
    seen.extend(found)
    return found

  images, found = batch.images[0], {}
  for begin in range(0, len(images), _EXAMPLES_AT_ONCE):
    part = jax.device_get(run(params, network_state, images[begin : begin + _EXAMPLES_AT_ONCE]))
    for name, (finite, size) in part.items():
      others = found.get(name, (True, 0.0))
      found[name] = (others[0] and bool(finite), max(others[1], float(size)))
  names = list(dict.fromkeys(seen))  # a second shape is traced again
  broken = [name for name in names if not found[name][0]]
  if broken:
    return [f'{name}: NaN or infinite values' for name in broken[:3]]
  largest = sorted(names, key=lambda name: -found[name][1])[:3]
  return [f'{name}: finite, at most {found[name][1]:.3g} in size' for name in largest]


def _finite_and_size(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Whether all are finite, and the largest magnitude."""
  wide = values.astype(jnp.float32)
  return jnp.all(jnp.isfinite(wide)), jnp.max(jnp.abs(wide))


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
