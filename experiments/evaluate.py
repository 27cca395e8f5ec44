"""Evaluates a file of weights on a whole test set: padded, masked, nothing dropped.

nfnets evaluate --config=digits --weights=FILE.safetensors
nfnets evaluate --workdir=runs/mine

A run's folder, which --weights takes as well, stands for the averaged weights in it and, without
--config, for the test set of the run; --config.data.dir=DIR takes another folder of pictures.
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
  waiting,
)
from experiments.runtime.errors import ConfigError
from experiments.training import (
  evaluation,
  initial_weights,
  same_run,
  settings,
  steps,
  work_directory,
)
from nfnets import weights


@data.kept_open()
def evaluate_file(
  config: ConfigDict, path: str | pathlib.Path, given: Collection[str] = ()
) -> dict[str, float]:
  """Evaluates a weights file on the test set of a config, its pictures prepared as the file says.

  Args:
    config: what to read; its model, and how it prepares pictures, are used only if the file does
      not say.
    path: a file that `nfnets.weights.save` wrote, such as a run's EMA weights, or a run's folder.
    given: fields of `config.data`, such as 'eval_image_size', that hold whatever the file says.

  Returns:
    What `evaluation.evaluate` gives. If the weights name their classes, a picture is right when
    its class has that name: the data may have them in another order, or only some.

  Raises:
    ValueError: the file cannot be read, it is of another network, or it does not know a class.
  """
  chosen = settings.read_evaluation(config, str(path), given)
  if processes.is_main():
    print(
      f'{chosen.data.noun.capitalize()}s are prepared so: {chosen.data.preprocessing}.',
      file=sys.stderr,
    )
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
  images = jax.ShapeDtypeStruct((1, *chosen.data.eval_shape), jnp.float32)
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), images)
  # The parameters, and the running statistics of a baseline with batch normalisation.
  trees = map(weights.merge, shapes, (params, network_state))
  networks = {'': steps.replicate(tuple(trees))}
  agreement.meet()
  if processes.is_main():
    print(waiting.compiling('the evaluation'), file=sys.stderr, flush=True)
  layout = chosen.data.test_layout
  with data.test_batches(chosen.data, **processes.share(), layout=layout) as batches:
    by_name = batches if places is None else (_relabel(batch, places) for batch in batches)
    step = steps.make_eval_step(network, layout)
    return evaluation.evaluate(step, networks, by_name, chosen.info.num_test)


def _relabel(batch: data.Batch, places: np.ndarray) -> data.Batch:
  """The same pictures, with the weights' numbers of their classes."""
  return batch._replace(labels=places[batch.labels], mix_labels=places[batch.mix_labels])


def report(config: ConfigDict, path: str, flag: str) -> None:
  """Prints the figures of the file or run that the flag names."""
  place = local_paths.require(path, flag)
  if place.is_dir():
    weights.find_in_run(place)  # says what is wrong with the folder
    if not flags.FLAGS['config'].present:
      config = command_line.with_given_fields(work_directory.read_config(place))
  with processes.together(checkpoints=False):
    compilation_cache.enable(config.compilation_cache)
    # The weights may say how the picture is cut, and then its share counts.
    given = command_line.given_fields() - {'data.eval_crop_share'}
    settings.require_effect(config, given)
    figures = evaluate_file(config, place, command_line.given_fields('data'))
    processes.say(json.dumps(figures, indent=2))


def main(argv: list[str] | None = None) -> int:
  """Evaluates what the flags say."""
  config = command_line.define_config('digits', 'The test set.')
  path = flags.DEFINE_string('weights', None, "A .safetensors file, or a run's folder.")
  workdir = flags.DEFINE_string('workdir', None, "A run's folder; the same as --weights.")
  flags.register_multi_flags_validator(
    ['weights', 'workdir'],
    lambda given: (given['weights'] is None) != (given['workdir'] is None),
    'give either --weights=FILE or --workdir=RUN',
  )

  def program() -> None:
    given = (path.value, '--weights') if path.value else (workdir.value, '--workdir')
    report(config.value, *given)

  command_line.run(program, argv)


if __name__ == '__main__':
  main()
