"""Evaluates a file of weights on a whole test set: padded, masked, nothing dropped.

nfnets evaluate --config=digits --weights=FILE.safetensors
"""

import json
import pathlib
import sys
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np
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
from experiments.runtime.errors import ConfigError
from experiments.training import evaluation, initial_weights, same_run, settings, steps
from nfnets import weights


def evaluate_file(
  config: ConfigDict, path: str | pathlib.Path, given: Collection[str] = ()
) -> dict[str, float]:
  """Evaluates a weights file on the test set of a config, its pictures prepared as the file says.

  Args:
    config: what to read; its model, and how it prepares pictures, are used only if the file does
      not say.
    path: a file that `nfnets.weights.save` wrote, such as a run's EMA weights.
    given: fields of `config.data`, such as 'eval_image_size', that hold whatever the file says.

  Returns:
    What `evaluation.evaluate` gives. If the weights name their classes, a picture is right when
    its class has that name: the data may have them in another order, or only some.

  Raises:
    ValueError: the file cannot be read, it is of another network, or it does not know a class.
  """
  chosen = settings.read_evaluation(config, str(path), given)
  if processes.is_main():
    print(f'Pictures are prepared so: {chosen.data.preprocessing}.', file=sys.stderr)
  if jax.process_count() > 1:
    same_run.require(config.to_dict(), chosen.info)
  params, network_state = initial_weights.load(str(path), chosen.spec)
  same_run.require_weights((params, network_state))
  num_classes = weights.count_classes(params, chosen.spec)
  if num_classes is None:
    raise ConfigError(f'{path} has no classifier, so there is nothing to evaluate.')
  if chosen.num_classes not in (None, num_classes):
    raise ConfigError(
      f'--config.model.num_classes is {chosen.num_classes}, but {path} knows {num_classes} '
      'classes: leave it out.'
    )
  names = chosen.info.class_names
  places = initial_weights.places_of_classes(str(path), names, num_classes)
  if places is None and len(names) > num_classes:
    raise ConfigError(f'{path} knows {num_classes} classes, but the data has {len(names)}.')
  network = chosen.network(num_classes)
  images = jax.ShapeDtypeStruct((1, *[chosen.data.eval_image_size] * 2, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), images)
  # The parameters, and the running statistics of a baseline with batch normalisation.
  trees = map(weights.merge, shapes, (params, network_state))
  networks = {'': steps.replicate(tuple(trees))}
  agreement.meet()
  with data.test_batches(chosen.data, **processes.share()) as batches:
    by_name = batches if places is None else (_relabel(batch, places) for batch in batches)
    return evaluation.evaluate(steps.make_eval_step(network), networks, by_name)


def _relabel(batch: data.Batch, places: np.ndarray) -> data.Batch:
  """The same pictures, with the weights' numbers of their classes."""
  return batch._replace(labels=places[batch.labels], mix_labels=places[batch.mix_labels])


def report(config: flags.FlagHolder, path: flags.FlagHolder) -> None:
  """Prints the figures of the file that the flags name."""
  weights_file = local_paths.require(path.value, '--weights')
  with processes.together(checkpoints=False):
    compilation_cache.enable(config.value.compilation_cache)
    # The weights may say how the picture is cut, and then its share counts.
    given = command_line.given_fields() - {'data.eval_crop_share'}
    settings.require_effect(config.value, given)
    figures = evaluate_file(config.value, weights_file, command_line.given_fields('data'))
    processes.say(json.dumps(figures, indent=2))


def main(argv: list[str] | None = None) -> int:
  """Evaluates what the flags say."""
  config = command_line.define_config('digits', 'The test set.')
  path = flags.DEFINE_string('weights', None, 'A .safetensors file.', required=True)
  command_line.run(lambda: report(config, path), argv)


if __name__ == '__main__':
  main()
