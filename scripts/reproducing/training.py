"""A train step that is compiled once for all learning rates, clippings and seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Batch
from experiments.training import steps
from experiments.training.gradients import StepSettings
from scripts.reproducing.pictures import make_batch


class Trained(NamedTuple):
  """How a run ended."""

  state: steps.TrainState
  steps: int  # that were made
  finite: bool  # whether all were: a run whose loss is not finite has lost


class Trainer:
  """Trains one network with one batch size."""

  def __init__(
    self,
    network: hk.TransformedWithState,
    make_optimizer: Callable[..., optax.GradientTransformation],
    settings: StepSettings,
    *,
    batch: int,
    total_steps: int,
    image_size: int,
    knobs: Mapping[str, float],
  ):
    """Builds the steps, which compile when they are first used.

    Args:
      network: apply(params, state, key, images, is_training).
      make_optimizer: of the numbers `knobs`, which are its arguments.
      settings: of the step.
      batch: pictures of an update.
      total_steps: of a run.
      image_size: of the pictures, pixels.
      knobs: what `run` may set to other numbers without another compilation.
    """
    self.batch, self.total_steps, self.image_size = batch, total_steps, image_size
    self.network = network
    self.optimizer = optax.inject_hyperparams(make_optimizer)(**knobs)
    self.train_step = steps.make_train_step(network, self.optimizer, settings)
    self.eval_step = steps.make_eval_step(network)

  def run(
    self, knobs: Mapping[str, float], seed: int, images: np.ndarray, labels: np.ndarray
  ) -> Trained:
    """Trains once, with pictures [N, H, W, 3] and their labels [N] in an order of the seed's."""
    state = steps.init_state(self.network, self.optimizer, seed, self.image_size)
    numbers = {name: jnp.float32(value) for name, value in knobs.items()}
    started = state.opt_state
    started = started._replace(hyperparams={**started.hyperparams, **numbers})
    state = steps.replicate(state._replace(opt_state=started))
    rng = np.random.default_rng(seed)
    epochs = self.total_steps * self.batch // len(labels) + 1
    order = np.concatenate([rng.permutation(len(labels)) for _ in range(epochs)])
    for step in range(self.total_steps):
      chosen = order[step * self.batch : (step + 1) * self.batch]
      state, values = self.train_step(state, make_batch(images[chosen], labels[chosen]))
      if values['nonfinite']:
        return Trained(state, step + 1, finite=False)
    return Trained(state, self.total_steps, finite=True)

  def top1(self, params: Any, network_state: Any, batches: Sequence[Batch]) -> float:
    """The share of pictures that are classified correctly."""
    sums = [self.eval_step(params, network_state, batch) for batch in batches]
    return float(sum(s['top1'] for s in sums) / sum(s['count'] for s in sums))
