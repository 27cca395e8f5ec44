"""Times this library."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from experiments.data import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.runtime import platforms
from experiments.training import settings, steps
from nfnets import baselines, execution, weights, zoo
from scripts.benchmarking import jax_tasks, serving


class JaxWorker(serving.Worker):
  """Times the contestants 'ours', 'unfolded' and 'published' on one device."""

  def __init__(self):
    """Starts JAX."""
    super().__init__()
    self._context = contextlib.ExitStack()
    with platforms.explained():
      self._device = jax.local_devices()[0]

  def about(self) -> dict[str, Any]:
    """Returns the versions and what JAX runs on."""
    return {
      'versions': {'python': sys.version.split()[0], 'jax': jax.__version__},
      'device': self._device.device_kind,
      'platform': self._device.platform,
    }

  def product(self, size: int, dtype: str) -> Callable[[], Any]:
    """See the base class."""
    matrix = jax.random.normal(jax.random.key(size), (size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(multiply(matrix, matrix))

  def build(
    self,
    *,
    contestant: str,
    model: Mapping[str, Any],
    files: Mapping[str, str],
    task: str,
    batch: int,
    size: int,
    dtype: str,
  ) -> Callable[[], Any]:
    """Returns a function that does the task once, its arrays being on the device."""
    if contestant == 'published':  # until the end, as the first call traces
      self._context.enter_context(execution.strategy('plain', space_to_depth='off'))
    if task == 'predict':
      file = files['folded_weights' if contestant == 'ours' else 'weights']
      return self._predict(file, batch, size, dtype)
    packing = 'off' if contestant == 'published' else 'auto'
    run = jax_tasks.make_run(model, batch, size, dtype, packing)
    params, state, _ = _load(files['weights'])
    if task == 'gradient':
      return self._gradient(run, params, state)
    return self._step(run, params, state)

  def device_memory(self) -> int | None:
    """Since the process started: JAX cannot forget it."""
    return (self._device.memory_stats() or {}).get('peak_bytes_in_use')

  def _predict(self, file: str, batch: int, size: int, dtype: str) -> Callable[[], Any]:
    params, state, spec = _load(file, dtype)
    network = hk.transform_with_state(
      lambda images, is_training: zoo.create_model(spec, jax_tasks.NUM_CLASSES)(images, is_training)
    )
    images = jnp.asarray(jax_tasks.make_images(batch, size))
    run = jax.jit(jax_tasks.make_logits(network, dtype))
    return lambda: jax.block_until_ready(run(params, state, images))

  def _gradient(self, run: settings.Run, params: Any, state: Any) -> Callable[[], Any]:
    gradient = jax.jit(jax_tasks.make_gradient(run))
    key = jax.random.key(0)
    examples = jax.device_put(_examples(run, NATURAL_LAYOUT))
    return lambda: jax.block_until_ready(gradient(params, state, key, examples))

  def _step(self, run: settings.Run, params: Any, state: Any) -> Callable[[], Any]:
    step, carried = jax_tasks.make_step(run)
    carried = steps.with_weights(carried, params, state)
    # As `steps.replicate` places it, but on one device.
    mesh = jax.sharding.Mesh([self._device], (steps.AXIS,))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    carried = jax.device_put(carried, everywhere)
    examples = jax.tree.map(lambda x: x[None], _examples(run, run.layout))
    by_device = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(steps.AXIS))
    examples = jax.device_put(examples, by_device)

    def advance() -> None:
      nonlocal carried
      carried, _ = jax.block_until_ready(step(carried, examples))

    return advance


def _load(file: str, dtype: str = 'float32') -> tuple[Any, Any, zoo.AnySpec]:
  """Parameters in a dtype and state, on the device, and what they belong to."""
  tree, metadata = weights.load(file)
  params, state = baselines.split_state(tree)
  params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
  return params, jax.device_put(state), zoo.spec_from_dict(metadata['spec'])


def _examples(run: settings.Run, layout: ImageLayout) -> Batch:
  per_device = run.data.global_batch_size // jax.device_count()
  return jax_tasks.make_batch(per_device, run.data.image_size, layout)


if __name__ == '__main__':
  serving.serve(JaxWorker)
