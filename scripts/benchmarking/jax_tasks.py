"""The tasks as functions of this library, for timing and for counting alike."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from experiments.data import NATURAL_LAYOUT, Batch, DatasetInfo, ImageLayout
from experiments.training import gradients, settings, steps

NUM_CLASSES = 1000
_IMAGES = 1_281_167  # an epoch, for the schedule; the speed of a step does not depend on it


def make_run(
  model: Mapping[str, Any], batch: int, size: int, dtype: str, space_to_depth: str = 'auto'
) -> settings.Run:
  """Returns the base recipe for a model: {'variant': name} or {'variant': 'custom', 'spec': ...}.

  With space_to_depth='off' the step takes images in their natural layout.

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
  config.data.space_to_depth = space_to_depth
  return settings.read(config, DatasetInfo(_IMAGES, 0, NUM_CLASSES, ()))


def make_logits(
  network: hk.TransformedWithState, dtype: str = 'float32'
) -> Callable[[Any, Any, jax.Array], jax.Array]:
  """Returns (params, state, images [N, H, W, 3] float32) -> logits [N, K] float32."""

  def logits(params: Any, state: Any, images: jax.Array) -> jax.Array:
    outputs, _ = network.apply(params, state, None, images.astype(dtype), is_training=False)
    return outputs['logits'].astype(jnp.float32)

  return logits


def make_gradient(run: settings.Run) -> gradients.Gradient:
  """Returns the gradient as the train step computes it, of images in their natural layout."""
  return gradients.make_gradient(run.network, dataclasses.replace(run.step, layout=NATURAL_LAYOUT))


def make_step(run: settings.Run) -> tuple[Callable[..., Any], steps.TrainState]:
  """Returns the train step, and a state before it that is all zeros, parameters included.

  Its images are in the run's layout.
  """
  shapes = jax.eval_shape(
    lambda: steps.init_state(run.network, run.optimizer, 0, run.data.image_size)
  )
  state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return steps.make_train_step(run.network, run.optimizer, run.step), state


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
