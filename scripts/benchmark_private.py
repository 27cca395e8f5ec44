"""The price of a private step over an ordinary one, in time and memory, by microbatch size.

python scripts/benchmark_private.py --microbatches 1 4 16
python scripts/benchmark_private.py --model WRN-16-4 --batch 32

The network and the pictures are those of configs/private.py, unless --model names another network.
All steps run by turns, so that what else the machine does slows all of them alike. Times are
medians; memory is what the compiled program asks for beside its inputs.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import private
from experiments import data
from experiments.runtime import platforms
from experiments.training import secret, settings, steps


def make(config: ConfigDict) -> tuple[Callable[[], None], int]:
  """Compiles the train step of a config.

  Returns:
    A function that makes one step, and the bytes that the program needs beside its inputs.
  """
  run = settings.read(config)
  state = steps.init_state(run.network, run.optimizer, run.step.seed, run.data.image_size)
  sampling = None
  if run.budget is not None:
    state = state._replace(secret=secret.as_arrays(secret.new()))
    devices = jax.device_count()
    sampling = secret.sampling(state.secret, run.budget, run.step.private, devices)
  state = steps.replicate(state)
  step = steps.make_train_step(run.network, run.optimizer, run.step)
  with data.train_batches(
    run.data, 0, jax.local_device_count(), layout=run.layout, sampling=sampling
  ) as batches:
    few = list(itertools.islice(batches, 4))
  memory = step.lower(state, few[0]).compile().memory_analysis().temp_size_in_bytes
  states, endless = [state], itertools.cycle(few)

  def one() -> None:
    states[0], metrics = step(states[0], next(endless))
    jax.block_until_ready((states[0], metrics))

  one()  # compiles
  return one, memory


def measure(config: ConfigDict, microbatches: list[int], rounds: int) -> dict[str, Any]:
  """Returns name -> (seconds of a step, bytes); the first is the ordinary step."""
  configs = {'ordinary': config.copy_and_resolve_references()}
  configs['ordinary'].private.epsilon = None
  for size in microbatches:
    name = f'private, microbatch {size}'
    configs[name] = config.copy_and_resolve_references()
    configs[name].private.microbatch = size
  made = {name: make(each) for name, each in configs.items()}
  seconds: dict[str, list[float]] = {name: [] for name in made}
  for _ in range(rounds):
    for name, (one, _) in made.items():
      began = time.perf_counter()
      one()
      seconds[name].append(time.perf_counter() - began)
  return {name: (float(np.median(seconds[name])), made[name][1]) for name in made}


def main(argv: list[str] | None = None) -> int:
  """Measures and prints a table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--model', help="a name of nfnets.list_models(); default: the recipe's own")
  parser.add_argument('--batch', type=int, default=256, help='expected number of pictures')
  parser.add_argument('--microbatches', type=int, nargs='+', default=[1, 4, 16])
  parser.add_argument('--rounds', type=int, default=20)
  options = parser.parse_args(argv)
  if min(*options.microbatches, options.batch, options.rounds) < 1:
    parser.error('--batch, --microbatches and --rounds must be above 0')
  config = private.get_config()
  config.global_batch_size = options.batch
  config.private.noise_multiplier = 5.0
  if options.model:
    config.model.variant, config.model.spec, config.model.skip_gain_init = options.model, {}, None
  found = measure(config, options.microbatches, options.rounds)
  ordinary_seconds, ordinary_bytes = found['ordinary']
  for name, (seconds, memory) in found.items():
    print(
      f'{name:24s} {seconds * 1e3:8.1f} ms  {seconds / ordinary_seconds:6.2f} x   '
      f'{memory / 1e6:8.1f} MB  {memory / ordinary_bytes:6.2f} x'
    )
  return 0


if __name__ == '__main__':
  try:
    with platforms.explained():
      sys.exit(main())
  except (OSError, ValueError) as error:
    sys.exit(f'Error: {error}')
