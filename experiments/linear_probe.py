"""Linear probe: the pretrained network runs once over all pictures, then its classifier is trained.

python -m experiments.train --config=configs/finetune.py --config.finetune.linear_probe=True ...

The pictures are prepared as for evaluation, without augmentation, so each has one row of features;
they are kept in the work directory. The rest takes seconds, and is the same every time.
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import data, evaluate
from experiments.data.batch import Batch
from experiments.data.sources import in_memory
from experiments.reporting import recording, results
from experiments.runtime import atomic_files, processes
from experiments.runtime.errors import ConfigError
from experiments.training import checkpoints, evaluation, initial_weights, settings, steps
from nfnets import optim

FEATURES_NAME = 'features.npz'


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains the classifier of `config.model.pretrained` alone and writes what any run leaves.

  Args:
    config: resolved.
    workdir: the run's folder.

  Returns:
    The final figures, as in `report.json`.

  Raises:
    ConfigError: there are several processes; a field cannot be used.
    ValueError: the data, the weights or the work directory cannot be used.
  """
  if jax.process_count() > 1:
    raise ConfigError('a linear probe needs one process only: leave --coordinator out.')
  info = data.describe(config)
  num_classes = settings.num_classes(config, info.num_classes)
  plan = settings.make_plan(config, info.num_train)
  network = settings.make_network(config, num_classes)
  checkpoints.claim_workdir(workdir, config.to_dict())
  params, network_state = _start(config, network)
  head = optim.find_classifier(params)
  replicated = steps.replicate((params, network_state))
  train_set, test_set = _features(config, workdir, network, replicated, info)

  probe = _classifier_network(head, params[head], settings.model_spec(config).drop_rate)
  optimizer, step_settings = settings.make_optimizer(_of_head_alone(config), plan)
  train_step = steps.make_train_step(probe, optimizer, step_settings)
  state = steps.replicate(steps.init_state(probe, optimizer, config.seed, 1))
  processes.say(
    f'{config.model.pretrained}: training its classifier, {num_classes} classes, on '
    f'{len(train_set[1]):,} rows of {train_set[0].shape[1]:,} features. {plan.total_steps:,} steps '
    f'of {config.global_batch_size}. Results go to {workdir}.'
  )
  progress = recording.Progress(
    total_steps=plan.total_steps,
    steps_per_epoch=plan.steps_per_epoch,
    images_per_step=config.global_batch_size,
  )
  batches = _train_batches(*train_set, config.global_batch_size, config.seed)
  in_flight: list[Any] = []
  with recording.MetricWriter(workdir) as writer:
    for step in range(1, plan.total_steps + 1):
      state, step_metrics = train_step(state, next(batches))
      in_flight.append(step_metrics)
      steps.wait_for(in_flight)
      if step % config.log_every_steps == 0 or step in (1, plan.total_steps):
        values = {name: float(value) for name, value in step_metrics.items()}
        values |= progress.speeds(step)
        writer.write(step, {f'train/{name}': value for name, value in values.items()})
        processes.say(
          progress.line(step, loss=values['loss'], learning_rate=values['learning_rate'])
        )
    networks = {'': (state.params, {}), '_ema': (state.ema_params, {})}
    test = _test_batches(*test_set, config.data.eval_batch_size)
    tested = evaluate.evaluate(steps.make_eval_step(probe), networks, test)
    writer.write(plan.total_steps, {f'test/{name}': value for name, value in tested.items()})

  trained = steps.replicate({**params, head: jax.device_get(state.ema_params[head])})
  figures = {
    **tested,
    'parameters': sum(np.size(x) for x in jax.tree.leaves(params)),
    'trained_parameters': sum(np.size(x) for x in jax.tree.leaves(state.params)),
    'unreadable_training_pictures': info.num_train - len(train_set[1]),
    'steps': plan.total_steps,
    'epochs': plan.total_steps / plan.steps_per_epoch,
  }
  return results.write(
    config,
    workdir,
    network,
    trained,
    replicated[1],
    figures,
    info=info,
    steps_per_epoch=plan.steps_per_epoch,
  )


def _start(config: ml_collections.ConfigDict, network: hk.TransformedWithState) -> tuple[Any, Any]:
  """The pretrained weights under a new classifier, and their state, as numpy arrays."""
  images = jnp.zeros((1, *[config.data.eval_image_size] * 2, 3))
  init = jax.jit(lambda key: network.init(key, images, is_training=True))
  fresh = jax.device_get(init(jax.random.key(config.seed)))
  return initial_weights.start_from(
    config.model.pretrained, *fresh, new_head=config.finetune.new_head
  )


def _features(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  network: hk.TransformedWithState,
  weights: tuple[Any, Any],
  info: data.DatasetInfo,
) -> list[tuple[np.ndarray, np.ndarray]]:
  """(features [N, C] float32, labels [N]) of the training and of the test set, readable ones."""
  path = workdir / FEATURES_NAME
  key = _fingerprint(config, weights)
  if path.exists():
    with np.load(path) as stored:
      if str(stored['key']) == key:
        processes.say(f'Using the features in {path}.')
        return [(stored[f'{part}_x'], stored[f'{part}_y']) for part in ('train', 'test')]
  sets = []
  for num_examples, of_training_set in ((info.num_train, True), (info.num_test, False)):
    processes.say(f'Computing the features of {num_examples:,} pictures.')
    found = evaluation.predict(
      network, *weights, config, num_examples=num_examples, of_training_set=of_training_set
    )
    sets.append((found.pool[found.readable], found.labels[found.readable]))
  (train_x, train_y), (test_x, test_y) = sets
  arrays = {'train_x': train_x, 'train_y': train_y, 'test_x': test_x, 'test_y': test_y}

  def write(temporary: pathlib.Path) -> None:
    with temporary.open('wb') as file:  # given a path, numpy would add a suffix
      np.savez(file, key=key, **arrays)

  atomic_files.replace(path, write)
  return sets


def _fingerprint(config: ml_collections.ConfigDict, weights: tuple[Any, Any]) -> str:
  """Of all that the features follow from: the trunk, the pictures' names, how they are prepared."""
  params, network_state = weights
  head = optim.find_classifier(params)
  trunk = {module: entries for module, entries in params.items() if module != head}
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves((trunk, network_state)):
    digest.update(np.asarray(leaf).tobytes())
  spec = settings.model_spec(config).to_dict()
  fields = {**config.data.to_dict(), 'spec': spec}
  digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
  digest.update(json.dumps(_file_stats(config)).encode())
  return digest.hexdigest()


def _file_stats(config: ml_collections.ConfigDict) -> list[tuple[str, int, int]]:
  """Name, size and time of what the pictures are read from, where that is files of the user's."""
  paths = [pathlib.Path(config.data.dir).expanduser()] if config.data.dir else []
  if paths and paths[0].is_dir():
    paths += [
      source.root / name
      for source in in_memory.open_sources(config)
      if isinstance(source, in_memory.FolderSource)
      for name in source.files.names
    ]
  stats = [(path, path.stat()) for path in paths if path.is_file()]
  return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]


def _classifier_network(
  head: str, fresh: dict[str, np.ndarray], drop_rate: float
) -> hk.TransformedWithState:
  """The network's end as a network of its own, whose images are features [B, C]."""

  def init(key, images, is_training):
    return {head: jax.tree.map(jnp.asarray, fresh)}, {}

  def apply(params, state, key, images, is_training):
    if is_training and drop_rate:
      kept = jax.random.bernoulli(key, 1 - drop_rate, images.shape)
      images = jnp.where(kept, images / (1 - drop_rate), 0)
    return {'pool': images, 'logits': images @ params[head]['w'] + params[head]['b']}, state

  return hk.TransformedWithState(init, apply)


def _of_head_alone(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The config without prefixes, which name parameters that the classifier alone does not have."""
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.finetune.frozen = ()
    config.finetune.learning_rate_multipliers = ml_collections.ConfigDict()
  return config


def _train_batches(
  features: np.ndarray, labels: np.ndarray, size: int, seed: int
) -> Iterator[Batch]:
  """Batches of rows, epoch after epoch in a new order, without end."""
  order = np.zeros(0, np.int64)
  epoch = 0
  while True:
    while len(order) < size:
      order = np.append(order, np.random.default_rng((seed, epoch)).permutation(len(labels)))
      epoch += 1
    chosen, order = order[:size], order[size:]
    yield _batch(features[chosen], labels[chosen], np.ones(size, np.float32))


def _test_batches(features: np.ndarray, labels: np.ndarray, size: int) -> Iterator[Batch]:
  """Every row once; the last batch is padded."""
  for i in range(math.ceil(len(labels) / size)):
    rows = np.arange(i * size, (i + 1) * size)
    mask = (rows < len(labels)).astype(np.float32)
    rows = np.minimum(rows, len(labels) - 1)
    yield _batch(features[rows], labels[rows], mask)


def _batch(features: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> Batch:
  """[N, ...] -> [D, N / D, ...]."""
  labels = labels.astype(np.int32)
  arrays = (features, labels, labels, np.ones(len(labels), np.float32), mask)
  devices = jax.local_device_count()
  return Batch(*(x.reshape(devices, -1, *x.shape[1:]) for x in arrays))
