"""Evaluates a file of weights on a whole test set: padded, masked, nothing dropped.

python -m experiments.evaluate --config=configs/digits.py --weights=FILE.safetensors
"""

import json
import pathlib

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict

from experiments import data
from experiments.runtime import (
  agreement,
  command_line,
  compilation_cache,
  local_paths,
  processes,
)
from experiments.training import evaluation, initial_weights, same_run, settings, steps
from nfnets import weights


def evaluate_file(config: ConfigDict, path: str | pathlib.Path) -> dict[str, float]:
  """Evaluates a weights file on the test set of a config, at the config's size.

  Args:
    config: what to read and how; its model is used only if the file does not describe its own.
    path: a file that `nfnets.weights.save` wrote, such as a run's EMA weights.

  Returns:
    What `evaluation.evaluate` gives.

  Raises:
    ValueError: the file cannot be read, or it is of another network.
  """
  data_settings, network = settings.read_evaluation(config, str(path))
  if jax.process_count() > 1:
    same_run.require(config.to_dict(), data.describe(data_settings))
  loaded = initial_weights.load(str(path))
  same_run.require_weights(loaded)
  images = jax.ShapeDtypeStruct((1, *[data_settings.eval_image_size] * 2, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), images)
  # The parameters, and the running statistics of a baseline with batch normalisation.
  trees = map(weights.merge, shapes, loaded)
  networks = {'': steps.replicate(tuple(trees))}
  agreement.meet()
  with data.test_batches(data_settings, **processes.share()) as batches:
    return evaluation.evaluate(steps.make_eval_step(network), networks, batches)


def main(config: flags.FlagHolder, path: flags.FlagHolder) -> None:
  """Prints the figures of the file that the flags name."""
  weights_file = local_paths.require(path.value, '--weights')
  with processes.together():
    compilation_cache.enable(config.value.compilation_cache)
    processes.say(json.dumps(evaluate_file(config.value, weights_file), indent=2))


if __name__ == '__main__':
  _CONFIG = command_line.define_config('configs/digits.py', 'The test set.')
  _WEIGHTS = flags.DEFINE_string('weights', None, 'A .safetensors file.', required=True)
  command_line.run(lambda: main(_CONFIG, _WEIGHTS))
