"""Linear probe: the pretrained network runs once over all pictures, then its classifier is trained.

python -m experiments.train --config=configs/finetune.py --config.finetune.linear_probe=True ...

The pictures are prepared as for evaluation, without augmentation, so each has one row of features;
they are kept in the work directory. The rest takes seconds, and is the same every time.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Batch, PoissonSampling, sources
from experiments.reporting import progress, recording, results
from experiments.runtime import atomic_files, processes, waiting
from experiments.runtime.errors import ConfigError
from experiments.training import (
  evaluation,
  initial_weights,
  nonfinite,
  secret,
  settings,
  steps,
  work_directory,
)
from nfnets import optim

FEATURES_NAME = 'features.npz'


def train(run: settings.Run, owned: work_directory.WorkDirectory) -> dict[str, Any]:
  """Trains the classifier of pretrained weights alone and writes what any run leaves.

  Args:
    run: with `pretrained`.
    owned: the run's folder, opened.

  Returns:
    The final figures, as in `report.json`.

  Raises:
    ConfigError: there are several processes.
    NonFiniteError: a loss or gradient was NaN or infinite, and `on_nonfinite` is 'stop'.
    ValueError: the data, the weights or the work directory cannot be used.
  """
  if jax.process_count() > 1:
    raise ConfigError('a linear probe needs one process only: leave --coordinator out.')
  workdir = owned.path
  params, network_state = _start(run)
  head = optim.find_classifier(params)
  replicated = steps.replicate((params, network_state))
  train_set, test_set = _features(run, workdir, replicated)
  processes.say(
    f'{run.pretrained}: training its classifier, {run.num_classes} classes, on '
    f'{len(train_set[1]):,} rows of {train_set[0].shape[1]:,} features. '
    f'{run.plan.total_steps:,} steps of {run.data.global_batch_size}. Results go to {workdir}.'
  )
  probe = _classifier_network(head, params[head], run.spec.drop_rate)
  with recording.MetricWriter(workdir) as writer:
    state = _train(run, workdir, probe, train_set, writer)
    networks = {'': (state.params, {}), '_ema': (state.ema_params, {})}
    test = _test_batches(*test_set, run.data.eval_batch_size)
    tested = evaluation.evaluate(
      steps.make_eval_step(probe), networks, test, num_examples=len(test_set[1])
    )
    writer.write(run.plan.total_steps, {f'test/{name}': value for name, value in tested.items()})

  owned.claim()
  trained = steps.replicate({**params, head: jax.device_get(state.ema_params[head])})
  figures = {
    **tested,
    'parameters': sum(np.size(x) for x in jax.tree.leaves(params)),
    'trained_parameters': sum(np.size(x) for x in jax.tree.leaves(state.params)),
    'unreadable_training_pictures': run.info.num_train - len(train_set[1]),
  }
  return results.write(run, workdir, trained, replicated[1], figures)


def _train(
  run: settings.Run,
  workdir: pathlib.Path,
  probe: hk.TransformedWithState,
  train_set: tuple[np.ndarray, np.ndarray],
  writer: recording.MetricWriter,
) -> steps.TrainState:
  """The loop over batches of features; returns the last state."""
  plan, size = run.plan, run.data.global_batch_size
  train_step = steps.make_train_step(probe, run.optimizer, run.step)
  state = steps.init_state(probe, run.optimizer, run.step.seed, 1)
  batches = _train_batches(*train_set, size, run.step.seed)
  if run.budget is not None:
    processes.say(run.budget.plan())
    # Each start is a new run, which begins at step 0: nothing of an earlier one is kept.
    state = state._replace(secret=secret.as_arrays(secret.new()))
    sampling = secret.sampling(
      state.secret, run.budget, run.step.private, num_devices=jax.device_count()
    )
    batches = _private_batches(*train_set, sampling)
  state = steps.replicate(state)
  pace = progress.Progress(
    total_steps=plan.total_steps, steps_per_epoch=plan.steps_per_epoch, images_per_step=size
  )
  log = progress.StepLog(writer, pace, every=run.log_every_steps, first=1, last=plan.total_steps)
  policy = nonfinite.Policy(run.on_nonfinite, workdir, probe, run.layout)
  in_flight = steps.InFlight(lambda *finished: policy.check(*finished, state))
  halted = steps.replicate(np.float32(0))
  for step in range(1, plan.total_steps + 1):
    batch = next(batches)
    state, step_metrics = train_step(state, batch, halted)
    halted = policy.halts(step_metrics)
    in_flight.add(step, step_metrics, batch)
    if step == 1:  # it compiled, which the rate must not contain
      in_flight.drain()
      pace.restart(step)
    if log.due(step):
      log.write(step, step_metrics, budget=run.budget)
  in_flight.drain()
  policy.check_end(state)
  if run.budget is not None:
    processes.say(run.budget.outcome())
  return state


def _start(run: settings.Run) -> tuple[Any, Any]:
  """The pretrained weights under a new classifier, and their state, as numpy arrays."""
  images = jnp.zeros((1, *run.data.eval_shape))
  init = jax.jit(lambda key: run.network.init(key, images, is_training=True))
  fresh = jax.device_get(init(jax.random.key(run.step.seed)))
  return initial_weights.start_from(
    run.pretrained,
    *fresh,
    new_head=run.new_head,
    class_names=run.info.class_names,
    spec=run.spec,
  )


def _features(
  run: settings.Run, workdir: pathlib.Path, weights: tuple[Any, Any]
) -> list[tuple[np.ndarray, np.ndarray]]:
  """(features [N, C] float32, labels [N]) of the training and of the test set, readable ones."""
  path = workdir / FEATURES_NAME
  key = _fingerprint(run, weights)
  if path.exists():
    with np.load(path) as stored:
      if str(stored['key']) == key:
        processes.say(f'Using the features in {path}.')
        return [(stored[f'{part}_x'], stored[f'{part}_y']) for part in ('train', 'test')]
  sets = []
  processes.say(waiting.compiling('the network'))
  for num_examples, of_training_set in ((run.info.num_train, True), (run.info.num_test, False)):
    processes.say(f'Computing the features of {num_examples:,} pictures.')
    found = evaluation.predict(
      run.network, *weights, run.data, num_examples=num_examples, of_training_set=of_training_set
    )
    sets.append((found.pool[found.readable], found.labels[found.readable]))
  (train_x, train_y), (test_x, test_y) = sets
  arrays = {'train_x': train_x, 'train_y': train_y, 'test_x': test_x, 'test_y': test_y}

  def write(temporary: pathlib.Path) -> None:
    with temporary.open('wb') as file:  # given a path, numpy would add a suffix
      np.savez(file, key=key, **arrays)

  atomic_files.replace(path, write)
  return sets


def _fingerprint(run: settings.Run, weights: tuple[Any, Any]) -> str:
  """Of all that the features follow from: the trunk, the pictures' names, how they are prepared."""
  params, network_state = weights
  head = optim.find_classifier(params)
  trunk = {module: entries for module, entries in params.items() if module != head}
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves((trunk, network_state)):
    digest.update(np.asarray(leaf).tobytes())
  fields = {**dataclasses.asdict(run.data), 'spec': run.spec.to_dict()}
  digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
  digest.update(json.dumps(sources.file_stats(run.data)).encode())
  return digest.hexdigest()


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


def _private_batches(
  features: np.ndarray, labels: np.ndarray, sampling: PoissonSampling
) -> Iterator[Batch]:
  """Batches of rows, each drawn by itself, without end."""
  sampling = dataclasses.replace(sampling, num_examples=len(labels))  # only readable ones
  for step in itertools.count():
    rows = np.array([draw.index for draw in sampling.draws(step, jax.local_device_count())])
    mask = (rows >= 0).astype(np.float32)
    yield _batch(features[rows] * mask[:, None], labels[rows], mask)


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
