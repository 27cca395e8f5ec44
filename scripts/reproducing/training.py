"""A train step that is compiled once for all learning rates, clippings and seeds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax.numpy as jnp
import numpy as np
import optax

from experiments.data import Batch
from experiments.data.augment import mixing
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
    self,
    knobs: Mapping[str, float],
    seed: int,
    images: np.ndarray,
    labels: np.ndarray,
    recipe: str = 'none',
  ) -> Trained:
    """Trains once.

    Args:
      knobs: numbers of this run.
      seed: of the parameters, the order of the pictures and how they are mixed.
      images: float32 [N, H, W, 3].
      labels: int32 [N].
      recipe: how pictures are mixed, one of `mixing.RECIPES`.
    """
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
      batch = make_batch(images[chosen], labels[chosen])
      if recipe != 'none':
        seconds = rng.integers(len(labels), size=self.batch)
        batch = _mixed(batch, images[seconds], labels[seconds], recipe, rng)
      state, values = self.train_step(state, batch)
      if values['nonfinite']:
        return Trained(state, step + 1, finite=False)
    return Trained(state, self.total_steps, finite=True)

  def top1(self, params: Any, network_state: Any, batches: Sequence[Batch]) -> float:
    """The share of pictures that are classified correctly."""
    sums = [self.eval_step(params, network_state, batch) for batch in batches]
    return float(sum(s['top1'] for s in sums) / sum(s['count'] for s in sums))


def _mixed(
  batch: Batch, images: np.ndarray, labels: np.ndarray, recipe: str, rng: np.random.Generator
) -> Batch:
  """Mixes each picture of one device's batch with the one at its place in `images`."""
  pairs = enumerate(zip(batch.images[0], images, strict=True))
  made = [mixing.mix_pair(mixing.kind_of(recipe, i), *pair, rng) for i, pair in pairs]
  pixels, ratios = zip(*made, strict=True)
  return batch._replace(
    images=np.stack(pixels)[None],
    mix_labels=labels[None],
    mix_ratio=np.array(ratios, np.float32)[None],
  )
