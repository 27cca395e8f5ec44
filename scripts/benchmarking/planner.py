"""A process beside the measurements, on the CPU: describes models, counts, makes their weights."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nfnets import baselines, deploy, execution, flops, weights, zoo
from scripts.benchmarking import jax_tasks, serving


class Planner:
  """Answers questions about models; times nothing."""

  def describe(self, model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the sizes, the number of parameters and the drop rates in training of a model."""
    spec = jax_tasks.make_run(model, 1, 64, 'float32').spec
    params, _ = baselines.split_state(zoo.parameter_shapes(spec, jax_tasks.NUM_CLASSES))
    return {
      'train_size': spec.train_size,
      'test_size': spec.test_size,
      'parameters': sum(leaf.size for leaf in jax.tree.leaves(params)),
      'drop_rate': spec.drop_rate,
      'stochdepth_rate': spec.stochdepth_rate,
    }

  def count_flops(
    self, model: Mapping[str, Any], task: str, batch: int, size: int
  ) -> dict[str, int]:
    """Returns the 'flops' of a call of the network as published; nothing is computed."""
    run = jax_tasks.make_run(model, batch, size, 'float32')
    network = run.network
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    key = jax.random.key(0)
    with execution.strategy(space_to_depth='off', minimal_filtering='off'):
      variables = jax.eval_shape(lambda x: network.init(key, x, is_training=True), images)
      if task == 'predict':
        program, arguments = jax_tasks.make_logits(network), (*variables, images)
      else:
        program = jax_tasks.make_gradient(run)
        arguments = (*variables, key, jax.eval_shape(lambda: jax_tasks.make_batch(batch, size)))
      return {'flops': 2 * flops.count_multiply_adds(program, *arguments)}

  def make_weights(self, model: Mapping[str, Any], folder: str) -> dict[str, str]:
    """Writes a network with random weights, as it is and folded.

    Skip gains are 1: at 0, where they start, all values of the branches would be 0.

    Returns:
      'weights' and 'folded_weights', the files.
    """
    run = jax_tasks.make_run(model, 1, 64, 'float32')
    spec, network = run.spec, run.network
    images = jnp.zeros((1, 64, 64, 3), jnp.float32)
    init = jax.jit(
      lambda x: network.init(jax.random.key(0), x, is_training=True),
      compiler_options={'xla_backend_optimization_level': 0},  # it runs once: compile quickly
    )
    params, state = jax.device_get(init(images))
    for leaves in params.values():
      if 'skip_gain' in leaves:
        leaves['skip_gain'] = jnp.ones_like(leaves['skip_gain'])
    place = pathlib.Path(folder)
    tree = baselines.join_state(params, state)
    weights.save(place / 'weights', tree, spec=spec.to_dict())
    folded, folded_spec = deploy.fold(tree, spec)
    weights.save(place / 'folded', folded, spec=folded_spec.to_dict())
    return {'weights': str(place / 'weights'), 'folded_weights': str(place / 'folded')}

  def make_onnx(self, files: Mapping[str, str], size: int) -> dict[str, str]:
    """Writes the folded network of `make_weights` for images of so many pixels.

    Returns:
      'onnx', the file.
    """
    folded, metadata = weights.load(files['folded_weights'])
    path = pathlib.Path(files['folded_weights']).with_name('network.onnx')
    deploy.export_onnx(path, folded, zoo.spec_from_dict(metadata['spec']), size=size)
    return {'onnx': str(path)}


if __name__ == '__main__':
  serving.serve(Planner)
