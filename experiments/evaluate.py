"""Evaluation over a whole test set: padded, masked, nothing dropped.

python -m experiments.evaluate --config=configs/digits.py --weights=FILE.safetensors
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import data
from experiments.data.batch import Batch
from experiments.runtime import command_line, compilation_cache, processes
from experiments.training import initial_weights, settings, steps
from nfnets import weights

_SECONDS_BETWEEN_LINES = 15


def evaluate(
  eval_step: Callable[..., dict[str, jax.Array]],
  networks: Mapping[str, tuple[Any, Any]],
  batches: Iterable[Batch],
) -> dict[str, float]:
  """Evaluates several sets of parameters on the same batches.

  Args:
    eval_step: from `steps.make_eval_step`.
    networks: suffix -> (params, network_state), e.g. {'': ..., '_ema': ...}.
    batches: the whole test set.

  Returns:
    'loss<suffix>' (mean, nats), 'top1<suffix>' and 'top5<suffix>' (0..1), and 'count'.

  Raises:
    ValueError: there was no example.
  """
  # Sums are added up in float64 and in order, so the result does not depend on timing.
  totals = {suffix: {} for suffix in networks}
  in_flight = []
  began = last_line = time.monotonic()
  for batch in batches:
    for suffix, (params, network_state) in networks.items():
      in_flight.append((suffix, eval_step(params, network_state, batch)))
      steps.wait_for(in_flight, collect=lambda item: _add(totals, item))
    now = time.monotonic()
    if now - last_line > _SECONDS_BETWEEN_LINES:
      done = max(int(sums.get('count', 0)) for sums in totals.values())
      if processes.is_main():  # standard output may be read by a program
        line = f'... {done:,} images evaluated, {done / (now - began):.0f} images/s'
        print(line, file=sys.stderr, flush=True)
      last_line = now
  steps.wait_for(in_flight, allowed=0, collect=lambda item: _add(totals, item))

  results = {}
  for suffix, sums in totals.items():
    count = sums.get('count', 0)
    if not count:
      raise ValueError('The test set has no readable example, so there is nothing to evaluate.')
    results |= {f'{name}{suffix}': sums[name] / count for name in ('loss', 'top1', 'top5')}
    results['count'] = int(count)
  return results


def _add(totals: dict[str, dict[str, float]], item: tuple[str, dict[str, jax.Array]]) -> None:
  suffix, sums = item
  for name, value in sums.items():
    totals[suffix][name] = totals[suffix].get(name, 0.0) + float(np.asarray(value))


def evaluate_file(config, path: str | pathlib.Path) -> dict[str, float]:
  """Evaluates a weights file on the test set of a config, at the config's size.

  Args:
    config: what to read and how; its model is used only if the file does not describe its own.
    path: a file that `nfnets.weights.save` wrote, such as a run's EMA weights.

  Returns:
    What `evaluate` gives.

  Raises:
    ValueError: the file cannot be read, or it is of another network.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.pretrained = str(path)
    if initial_weights.find_spec(str(path)) is not None:  # the weights say which model they are for
      config.model.variant, config.model.spec = '', {}
      for field in ('drop_rate', 'activation'):
        config.model[field] = None
  config = settings.resolve(config)
  info = data.describe(config)
  loaded = initial_weights.load(str(path))
  num_classes = settings.num_classes(config, info.num_classes)
  network = settings.make_network(config, num_classes)
  images = jax.ShapeDtypeStruct((1, *[config.data.eval_image_size] * 2, 3), jnp.float32)
  shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), images)
  # The parameters, and the running statistics of a baseline with batch normalisation.
  trees = map(weights.merge, shapes, loaded)
  params, network_state = steps.replicate(tuple(trees))
  with data.test_batches(
    config, jax.local_device_count(), jax.process_index(), jax.process_count()
  ) as batches:
    return evaluate(steps.make_eval_step(network), {'': (params, network_state)}, batches)


def main(config: flags.FlagHolder, path: flags.FlagHolder) -> None:
  """Prints the figures of the file that the flags name."""
  compilation_cache.enable(config.value.compilation_cache)
  print(json.dumps(evaluate_file(config.value, path.value), indent=2))


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', 'configs/digits.py', 'The test set.')
  _WEIGHTS = flags.DEFINE_string('weights', None, 'A .safetensors file.', required=True)
  command_line.run(lambda: main(_CONFIG, _WEIGHTS))
