"""The tasks as functions of this library, for timing and for counting alike."""

from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from configs import base
from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.training import gradients, settings, steps

NUM_CLASSES = 1000
_IMAGES = 1_281_167  # an epoch, for the schedule; the speed of a step does not depend on it


def make_config(
  model: Mapping[str, Any], batch: int, size: int, dtype: str
) -> ml_collections.ConfigDict:
  """Returns the base recipe for a model: {'variant': name} or {'variant': 'custom', 'spec': ...}.

  Raises:
    ValueError: there is no such model.
  """
  config = base.get_config()
  for field, value in model.items():
    config.model[field] = value
  # Only for the learning rate: the step is that of one device.
  config.global_batch_size = batch * jax.device_count()
  config.compute_dtype = dtype
  config.data.image_size = size
  return settings.resolve(config)


def make_logits(
  network: hk.TransformedWithState, dtype: str = 'float32'
) -> Callable[[Any, Any, jax.Array], jax.Array]:
  """Returns (params, state, images [N, H, W, 3] float32) -> logits [N, K] float32."""

  def logits(params: Any, state: Any, images: jax.Array) -> jax.Array:
    outputs, _ = network.apply(params, state, None, images.astype(dtype), is_training=False)
    return outputs['logits'].astype(jnp.float32)

  return logits


def make_optimizer(
  config: ml_collections.ConfigDict, layout: ImageLayout = NATURAL_LAYOUT
) -> tuple[optax.GradientTransformation, gradients.StepSettings]:
  """Returns the recipe's optimiser and the settings of its step."""
  return settings.make_optimizer(config, settings.make_plan(config, _IMAGES), layout)


def make_gradient(
  network: hk.TransformedWithState, config: ml_collections.ConfigDict
) -> gradients.Gradient:
  """Returns the gradient as the train step computes it."""
  return gradients.make_gradient(network, make_optimizer(config)[1])


def step_layout(config: ml_collections.ConfigDict) -> ImageLayout:
  """Returns how the images of the train step lie in memory, as in `experiments.train`."""
  return settings.image_layout(config, jax.default_backend())


def make_step(
  network: hk.TransformedWithState, config: ml_collections.ConfigDict
) -> tuple[Callable[..., Any], steps.TrainState]:
  """Returns the train step, and a state before it that is all zeros, parameters included."""
  optimizer, step_settings = make_optimizer(config, step_layout(config))
  shapes = jax.eval_shape(lambda: steps.init_state(network, optimizer, 0, config.data.image_size))
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return steps.make_train_step(network, optimizer, step_settings), state


def make_images(batch: int, size: int) -> np.ndarray:
  """Returns random pictures, float32 [batch, size, size, 3]."""
  return np.random.default_rng(0).standard_normal((batch, size, size, 3), np.float32)


def make_batch(batch: int, size: int, layout: ImageLayout = NATURAL_LAYOUT) -> Batch:
  """Returns unmixed examples of one device, [B, ...]."""
  images = layout.empty(batch, size)
  for image, out in zip(make_images(batch, size), images, strict=True):
    layout.store(image, out)
  labels = np.arange(batch, dtype=np.int32) % NUM_CLASSES
  ones = np.ones(batch, np.float32)
  return Batch(images, labels, labels, ones, ones)
