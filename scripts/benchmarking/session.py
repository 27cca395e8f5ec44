"""One run: all cases of all models, their weights, and the file that keeps the results."""

import argparse
import contextlib
import datetime
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.runtime import atomic_files
from nfnets import interruption
from scripts.benchmarking import machine, measure
from scripts.benchmarking.child import Child, ChildError
from scripts.benchmarking.progress import Progress
from scripts.benchmarking.runtime_worker import PACKAGES


def run(arguments: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
  """Measures what the arguments of scripts/benchmark.py ask for, and writes `arguments.out`.

  Args:
    arguments: parsed.
    argv: as they were given, to be noted.

  Returns:
    What the file holds.

  Raises:
    ChildError: a model is unknown, or a framework is missing.
    ValueError: the file of a spec cannot be read.
  """
  progress = Progress()
  results = {
    'command': machine.command(argv),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'machine': machine.describe(),
    'versions': {},
    'settings': {
      name: getattr(arguments, name)
      for name in ('rounds', 'seconds_limit', 'dtype', 'alone', 'processor_time')
      if getattr(arguments, name) != math.inf
    },
    'ceiling': {},
    'models': {},
    'results': [],
  }
  models = dict(read_model(text) for text in arguments.models)
  with (
    Child('scripts.benchmarking.planner', JAX_PLATFORMS='cpu') as planner,
    interruption.temporary_folder() as folder,
  ):
    for name, model in models.items():
      results['models'][name] = planner.ask('describe', model=model)
    _look_around(arguments, results, progress)
    files: dict[str, str] = {}
    last = None
    for case in progress.over(_cases(arguments, models, results['models'])):
      if case.name != last:
        progress.say(f'{case.name}: makes weights')
        last = case.name
        try:
          files = planner.ask('make_weights', model=case.model, folder=folder)
        except ChildError as error:
          files = {'failed': f'its weights cannot be made: {error}'}
      results['results'] += _measure(case, arguments, results, planner, files, progress)
      if arguments.out:
        _write(arguments.out, results)
  return results


def read_model(text: str) -> tuple[str, dict[str, Any]]:
  """Returns the name of a model, and the fields of `config.model` that say which it is.

  Args:
    text: a name, or a JSON file with the fields of a spec.

  Raises:
    ValueError: the file has no JSON object.
  """
  path = pathlib.Path(text)
  if path.suffix != '.json':
    return text, {'variant': text}
  try:
    fields = json.loads(path.read_text(encoding='utf-8'))
  except OSError as error:
    raise ValueError(f'{path} cannot be read: {error.strerror}.') from error
  except ValueError as error:
    raise ValueError(f'{path} is no JSON: {error}.') from error
  if not isinstance(fields, dict):
    raise ValueError(f'{path} must hold the fields of a ModelSpec, such as {{"width": [64], ...}}.')
  return path.stem, {'variant': 'custom', 'spec': fields}


def _cases(
  arguments: argparse.Namespace,
  models: Mapping[str, Mapping[str, Any]],
  infos: Mapping[str, Mapping[str, Any]],
) -> list[measure.Case]:
  return [
    measure.Case(name, model, task, batch, size, arguments.dtype)
    for name, model in models.items()
    for task in arguments.tasks
    for size in arguments.sizes or [infos[name]['test_size' if task == 'predict' else 'train_size']]
    for batch in arguments.batches
  ]


def _look_around(
  arguments: argparse.Namespace, results: dict[str, Any], progress: Progress
) -> None:
  """Starts each framework once, for its versions, its device and its ceiling."""
  for name in arguments.runtime:  # first, as they may be missing
    with Child('scripts.benchmarking.runtime_worker', arguments.runtime_python) as worker:
      try:
        versions = worker.ask('about', contestant=name)['versions']
      except ChildError as error:
        raise ChildError(_why_no_runtime(name, arguments.runtime_python, error)) from error
      results['versions'] |= {f'python of {name}': versions.pop('python'), **versions}
  with contextlib.ExitStack() as stack:
    workers = {}
    if arguments.peer:  # as well
      worker = Child('scripts.benchmarking.timm_worker', arguments.peer_python)
      workers['torch'] = stack.enter_context(worker)
    workers['jax'] = stack.enter_context(
      Child('scripts.benchmarking.jax_worker', **measure.SHARES_GPU)
    )
    for name, worker in workers.items():
      progress.say(f'starts {name}')
      try:
        about = worker.ask('about')
      except ChildError as error:
        raise ChildError(_why_not(name, arguments.peer_python, error)) from error
      versions = about.pop('versions')
      results['versions'][f'python of {name}'] = versions.pop('python')
      results['versions'] |= versions
      results['machine'] |= {f'{key} of {name}': value for key, value in about.items()}
    for name, worker in workers.items():
      progress.say(f'ceiling of matrix products, {name}')
      results['ceiling'][name] = worker.ask('measure_ceiling', dtype=arguments.dtype)
      worker.close()


def _why_not(framework: str, python: str, error: ChildError) -> str:
  if framework == 'jax':
    return str(error)
  return (
    f'--peer needs torch and timm in {python}: {error}. Install both, or name another interpreter '
    'with --peer-python.'
  )


def _why_no_runtime(name: str, python: str, error: ChildError) -> str:
  package = PACKAGES[name]
  return (
    f'--runtime {name} needs {package} in {python}: {error}. Install it there, '
    'or name another interpreter with --runtime-python.'
  )


def _measure(
  case: measure.Case,
  arguments: argparse.Namespace,
  results: Mapping[str, Any],
  planner: Child,
  files: Mapping[str, str],
  progress: Progress,
) -> list[measure.Row]:
  """Returns the rows of a case."""
  progress.say(f'{case}: counts operations')
  shape = {'task': case.task, 'batch': case.batch, 'size': case.size}
  try:
    flops = planner.ask('count_flops', model=case.model, **shape)['flops']
  except ChildError:  # the contestants will say what is wrong
    flops = None
  options = measure.Options(
    arguments.rounds,
    arguments.seconds_limit,
    arguments.peer_python,
    arguments.runtime_python,
    arguments.alone,
  )
  names = measure.contestants_of(case, arguments.baseline, arguments.peer, arguments.runtime)
  if arguments.runtime and case.task == 'predict' and 'failed' not in files:
    files = files | planner.ask('make_onnx', files=files, size=case.size)
  info = {**results['models'][case.name], 'files': files}
  rows = measure.run_case(case, names, info, options, progress.say)
  ceiling = max(one['flops_per_second'] for one in results['ceiling'].values())
  measure.add_rates(rows, flops, ceiling)
  return rows


def _write(path: pathlib.Path, results: Mapping[str, Any]) -> None:
  """Replaces the file as a whole: an interruption leaves the one before."""
  text = json.dumps(results, indent=2) + '\n'
  atomic_files.replace(path, lambda p: p.write_text(text, encoding='utf-8'))
  interruption.explain(lambda: f'{path} has the cases that are done.')
