"""The privacy that a run spends: (epsilon, delta) of Poisson-sampled Gaussian noise, composed.

The accountant is that of privacy loss distributions (dp_accounting's PLDAccountant), for data sets
that differ in one example, present or absent. It assumes what `experiments.data.poisson` does:
every example is in a batch by a coin of its own.

A batch has room for `limit` examples. What is cut off a larger draw makes the run another one than
the accountant's with a probability of at most steps * P(Binomial(n, q) > limit); that costs at most
(1 + e^epsilon) times as much of delta, which is set aside: the accountant gets the rest.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from importlib import metadata
from typing import Any

from scipy import stats

from experiments.runtime.errors import ConfigError
from nfnets import installation

RELATION = 'add or remove one example'
_SHARE_SET_ASIDE = 1e-3  # of delta, at most
_TOLERANCE = 1e-3  # of a calibrated noise multiplier
LEAST_NOISE = 0.1  # one update with less spends an epsilon above 50, and its account gigabytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """What a run may spend and how it spends it.

  Attributes:
    epsilon: that the whole run stays within.
    delta: the same.
    num_examples: of the training set, taken to be public.
    batch_size: expected size of a batch; an example is in it with probability batch_size /
      num_examples.
    noise_multiplier: standard deviation of the noise over the norm of a clipped gradient.
    clipping_norm: of the gradient of an example.
    steps: updates of the run.
    planned_steps: updates that were asked for; more than `steps` if epsilon does not allow them.
    limit: examples that a batch has room for.
  """

  epsilon: float
  delta: float
  num_examples: int
  batch_size: int
  noise_multiplier: float
  clipping_norm: float
  steps: int
  planned_steps: int
  limit: int

  @property
  def probability(self) -> float:
    """With which an example is in a batch."""
    return self.batch_size / self.num_examples

  def spent(self, steps: int) -> float:
    """Returns the epsilon of so many updates, at `delta`."""
    return _epsilon(self.noise_multiplier, steps, self.probability, self._accounted_delta())

  def slots(self, multiple: int) -> int:
    """Returns how many examples a batch has room for, when that is to be such a multiple."""
    return math.ceil(self.limit / multiple) * multiple

  def _accounted_delta(self) -> float:
    return self.delta - set_aside(
      self.epsilon, self.planned_steps, self.num_examples, self.probability, self.limit
    )

  def plan(self) -> str:
    """Says what the run is going to spend."""
    return (
      f'Private: within epsilon {self.epsilon:g} at delta {self.delta:g} ({RELATION}). Noise '
      f'multiplier {self.noise_multiplier:.4g}, clipping norm {self.clipping_norm:g}; each of the '
      f'{self.num_examples:,} training pictures is in a batch with probability '
      f'{self.probability:.3g}.'
    )

  def outcome(self) -> str:
    """Says what the run has spent, and that it ends for that if it does."""
    spent = f'epsilon {self.spent(self.steps):.4g} of {self.epsilon:g} at delta {self.delta:g}'
    if self.steps == self.planned_steps:
      return f'Privacy: {spent} after {self.steps:,} updates.'
    return (
      f'The privacy budget is spent: {spent} after {self.steps:,} of {self.planned_steps:,} '
      'updates, and one more would exceed it. The run ends here.'
    )

  def to_json(self, steps: int) -> dict[str, Any]:
    """Returns what was spent after so many updates and by what, as plain values."""
    version = metadata.version('dp-accounting')
    return {
      'epsilon': self.spent(steps),
      'delta': self.delta,
      'neighbouring_relation': RELATION,
      'accountant': f'privacy loss distributions, dp_accounting {version}',
      'sampling': 'Poisson',
      'sampling_probability': self.probability,
      'examples': self.num_examples,
      'expected_batch_size': self.batch_size,
      'largest_batch': self.limit,
      'noise_multiplier': self.noise_multiplier,
      'clipping_norm': self.clipping_norm,
      'updates': steps,
      'epsilon_allowed': self.epsilon,
    }


def default_delta(num_examples: int) -> float:
  """Returns the greatest power of ten below one over the number of examples."""
  return 10.0 ** -(math.floor(math.log10(num_examples)) + 1)


def make_budget(
  *,
  epsilon: float,
  delta: float | None,
  noise_multiplier: float | None,
  clipping_norm: float,
  batch_size: int,
  num_examples: int,
  steps: int,
) -> Budget:
  """Works out the noise for a number of updates, or the updates that a noise allows.

  Args:
    epsilon: of the whole run.
    delta: the same; None: `default_delta`.
    noise_multiplier: at least LEAST_NOISE; None: the least with which all steps stay within
      (epsilon, delta).
    clipping_norm: of the gradient of an example.
    batch_size: expected.
    num_examples: of the training set.
    steps: updates that are asked for.

  Raises:
    ConfigError: the noise does not even allow one update; or dp_accounting is not installed.
  """
  require_installed()
  delta = delta or default_delta(num_examples)
  probability = batch_size / num_examples
  limit = largest_batch(epsilon, delta, steps, num_examples, probability)
  accounted = delta - set_aside(epsilon, steps, num_examples, probability, limit)
  allowed = steps
  if noise_multiplier is None:
    noise_multiplier = _least_noise(epsilon, accounted, steps, probability)
  else:
    allowed = _most_steps(noise_multiplier, epsilon, accounted, steps, probability)
    if not allowed:
      raise ConfigError(
        f'one update with --config.private.noise_multiplier={noise_multiplier:g} spends more than '
        f'--config.private.epsilon={epsilon:g}: leave the noise out, and it is made to fit.'
      )
  return Budget(
    epsilon=epsilon,
    delta=delta,
    num_examples=num_examples,
    batch_size=batch_size,
    noise_multiplier=noise_multiplier,
    clipping_norm=clipping_norm,
    steps=allowed,
    planned_steps=steps,
    limit=limit,
  )


def largest_batch(
  epsilon: float, delta: float, steps: int, num_examples: int, probability: float
) -> int:
  """Returns the least limit of a batch's size that costs at most a thousandth of delta."""
  chance = _SHARE_SET_ASIDE * delta / (steps * (1 + math.exp(epsilon)))
  return int(stats.binom.isf(chance, num_examples, probability))


def set_aside(
  epsilon: float, steps: int, num_examples: int, probability: float, limit: int
) -> float:
  """Returns the part of delta that a limit of the batch's size costs."""
  chance = float(stats.binom.sf(limit, num_examples, probability))
  return steps * chance * (1 + math.exp(epsilon))


def require_installed() -> None:
  """Raises ConfigError unless the packages of private training are installed."""
  try:
    import dp_accounting  # noqa: F401
    import jax_privacy  # noqa: F401
  except ImportError:
    raise ConfigError(
      f'private training needs more packages: {installation.command("private")}'
    ) from None


def _accountant() -> Any:
  import dp_accounting

  relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
  return dp_accounting.pld.PLDAccountant(relation)


def _event(noise_multiplier: float, steps: int, probability: float) -> Any:
  import dp_accounting

  noise = dp_accounting.GaussianDpEvent(noise_multiplier)
  sampled = dp_accounting.PoissonSampledDpEvent(probability, noise)
  return dp_accounting.SelfComposedDpEvent(sampled, steps)


@functools.lru_cache(maxsize=1024)
def _epsilon(noise_multiplier: float, steps: int, probability: float, delta: float) -> float:
  """The epsilon of so many updates."""
  if not steps:
    return 0.0
  event = _event(noise_multiplier, steps, probability)
  return float(_accountant().compose(event).get_epsilon(delta))


def _least_noise(epsilon: float, delta: float, steps: int, probability: float) -> float:
  """The noise multiplier with which the steps spend epsilon or a little less."""
  import dp_accounting

  def fits(noise: float) -> bool:
    return _epsilon(noise, steps, probability, delta) <= epsilon

  # From above: the account of little noise takes much time and memory.
  noise = 1.0
  while not fits(noise):
    noise *= 2
  while fits(noise / 2):
    noise /= 2
    if noise < LEAST_NOISE:
      return LEAST_NOISE
  return float(
    dp_accounting.calibrate_dp_mechanism(
      _accountant,
      lambda noise: _event(noise, steps, probability),
      epsilon,
      delta,
      bracket_interval=dp_accounting.ExplicitBracketInterval(noise / 2, noise),
      tol=_TOLERANCE,
    )
  )


def _most_steps(
  noise_multiplier: float, epsilon: float, delta: float, steps: int, probability: float
) -> int:
  """How many of the steps the noise allows."""

  def allows(count: int) -> bool:
    return _epsilon(noise_multiplier, count, probability, delta) <= epsilon

  if not allows(1):  # at once, as accounts of little noise take the longer the more steps
    return 0
  return steps if allows(steps) else _last(allows, steps)


def _last(holds: Callable[[int], bool], end: int) -> int:
  """The last number below `end` for which a property holds that is lost once and for good."""
  first = 1
  while end - first > 1:
    middle = (first + end) // 2
    first, end = (middle, end) if holds(middle) else (first, middle)
  return first
