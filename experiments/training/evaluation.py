"""What a network makes of a whole set: its accuracy, or a row for each picture."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import data
from experiments.data import Batch, DataSettings
from experiments.runtime import processes, waiting
from experiments.training import steps


def _run(
  step: Callable[..., dict[str, jax.Array]],
  networks: Mapping[str, tuple[Any, Any]],
  batches: Iterable[Batch],
  collect: Callable[[str, dict[str, jax.Array], Batch], None],
) -> None:
  """Hands (network's name, what the step made of a batch, the batch) on to `collect`, in order."""
  in_flight = steps.InFlight(collect)
  for batch in batches:
    for name, (params, network_state) in networks.items():
      in_flight.add(name, step(params, network_state, batch), batch)
  in_flight.drain()


def evaluate(
  eval_step: Callable[..., dict[str, jax.Array]],
  networks: Mapping[str, tuple[Any, Any]],
  batches: Iterable[Batch],
  num_examples: int | None = None,
) -> dict[str, float]:
  """Evaluates several sets of parameters on the same batches.

  Args:
    eval_step: from `steps.make_eval_step`.
    networks: suffix -> (params, network_state), e.g. {'': ..., '_ema': ...}.
    batches: the whole test set.
    num_examples: in it, for the time left on the lines of a long evaluation.

  Returns:
    'loss<suffix>' (mean, nats), 'top1<suffix>' and 'top5<suffix>' (0..1), and 'count'.

  Raises:
    ValueError: there was no example.
  """
  # Sums are added up in float64 and in order, so the result does not depend on timing.
  totals: dict[str, dict[str, float]] = {suffix: {} for suffix in networks}
  countdown, last = waiting.Countdown(num_examples), [*networks][-1]

  def add(suffix: str, sums: dict[str, jax.Array], _: Batch) -> None:
    for name, value in sums.items():
      totals[suffix][name] = totals[suffix].get(name, 0.0) + float(np.asarray(value))
    if suffix == last:
      countdown.reached(int(totals[suffix]['count']))

  _run(eval_step, networks, batches, add)
  results = {}
  for suffix, sums in totals.items():
    count = sums.get('count', 0)
    if not count:
      raise ValueError('The test set has no readable example, so there is nothing to evaluate.')
    results |= {f'{name}{suffix}': sums[name] / count for name in ('loss', 'top1', 'top5')}
    results['count'] = int(count)
  return results


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
  settings: DataSettings,
  *,
  num_examples: int,
  of_training_set: bool = False,
) -> Predictions:
  """Runs the network over a set, prepared as for evaluation. All processes must call it.

  Args:
    network: the network's pure functions.
    params: replicated parameters.
    network_state: its replicated state.
    settings: of the data.
    num_examples: N, of the whole set.
    of_training_set: the training set instead of the test set.

  Returns:
    The predictions, on every process.

  Raises:
    DataError: the data cannot be read.
  """
  rows: list[tuple[np.ndarray, ...]] = []
  countdown = waiting.Countdown(num_examples)

  def add(_: str, out: dict[str, jax.Array], batch: Batch) -> None:
    columns = (out['probabilities'], out['pool'], batch.labels, batch.mask)
    rows.append(tuple(_merged(x) for x in columns))
    done = sum(len(columns[0]) for columns in rows) * jax.process_count()
    countdown.reached(min(done, num_examples))

  layout = settings.test_layout
  step, networks = steps.make_predict_step(network, layout), {'': (params, network_state)}
  with data.test_batches(
    settings, **processes.share(), of_training_set=of_training_set, layout=layout
  ) as batches:
    _run(step, networks, batches, add)
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
