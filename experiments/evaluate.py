"""Evaluation over a whole test set: padded, masked, nothing dropped."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from experiments import steps
from experiments.batch import Batch


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
  for batch in batches:
    for suffix, (params, network_state) in networks.items():
      in_flight.append((suffix, eval_step(params, network_state, batch)))
      steps.wait_for(in_flight, collect=lambda item: _add(totals, item))
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
