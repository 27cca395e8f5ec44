"""What a network makes of each picture of a set, for reports and for linear probes."""

from typing import Any, NamedTuple

import haiku as hk
import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from experiments import data
from experiments.training import steps


class Predictions(NamedTuple):
  """One row for each of N pictures, in the order of the set; K classes, C pooled channels."""

  probabilities: np.ndarray  # [N, K] float32
  pool: np.ndarray  # [N, C] float32, what the classifier sees
  labels: np.ndarray  # [N] int32
  readable: np.ndarray  # [N] bool; the other columns mean nothing where it is False


def predict(
  network: hk.TransformedWithState,
  params: Any,
  network_state: Any,
  config: ml_collections.ConfigDict,
  *,
  num_examples: int,
  of_training_set: bool = False,
) -> Predictions:
  """Runs the network over a set, prepared as for evaluation. All processes must call it.

  Args:
    network: the network's pure functions.
    params: replicated parameters.
    network_state: its replicated state.
    config: resolved; `data` is used.
    num_examples: N, of the whole set.
    of_training_set: the training set instead of the test set.

  Returns:
    The predictions, on every process.

  Raises:
    DataError: the data cannot be read.
  """
  step = steps.make_predict_step(network)
  hosts = (jax.process_index(), jax.process_count())
  rows: list[tuple[np.ndarray, ...]] = []

  def collect(item) -> None:
    out, batch = item
    columns = (out['probabilities'], out['pool'], batch.labels, batch.mask)
    rows.append(tuple(_merged(x) for x in columns))

  in_flight: list[Any] = []
  with data.test_batches(
    config, jax.local_device_count(), *hosts, of_training_set=of_training_set
  ) as batches:
    for batch in batches:
      in_flight.append((step(params, network_state, batch), batch))
      steps.wait_for(in_flight, collect=collect)
  steps.wait_for(in_flight, allowed=0, collect=collect)
  columns = (_in_order(np.concatenate(column))[:num_examples] for column in zip(*rows, strict=True))
  probabilities, pool, labels, mask = columns
  return Predictions(probabilities, pool, labels, mask > 0)


def _merged(array: Any) -> np.ndarray:
  """[D, B, ...] on the local devices -> [D * B, ...] here."""
  if isinstance(array, jax.Array) and not array.is_fully_addressable:
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    array = np.concatenate([np.asarray(shard.data) for shard in shards])
  array = np.asarray(array)
  return array.reshape(-1, *array.shape[2:])


def _in_order(rows: np.ndarray) -> np.ndarray:
  """Puts together what the processes hold: example i is with process i modulo their number."""
  if jax.process_count() == 1:
    return rows
  everyone = multihost_utils.process_allgather(rows)  # [processes, rows, ...]
  return np.swapaxes(everyone, 0, 1).reshape(-1, *rows.shape[1:])
