"""The secret of a private run: all its randomness but the initial parameters follows from it.

It comes from the operating system's randomness and is kept in the run's checkpoints alone. Noise
and examples are functions of the secret and of the update's number. So an update that is made again
after an interruption is the same update: the same examples, the same noise, and, because the
parameters of the checkpoint are those that it had before, the same sum of gradients. No noise is
ever added to two different sums.
"""

import secrets
from typing import Any

import jax
import numpy as np

from experiments.data.poisson import PoissonSampling
from experiments.training.gradients import PrivateSettings
from experiments.training.privacy_budget import Budget

_WORDS = {'noise': 2, 'dropout': 2, 'sampling': 4}  # of 32 bits: what each generator takes


def new() -> dict[str, list[int]]:
  """Returns the secret of a new run: for each purpose a list of 32-bit words."""
  return {name: [secrets.randbits(32) for _ in range(count)] for name, count in _WORDS.items()}


def as_arrays(secret: dict[str, list[int]]) -> dict[str, np.ndarray]:
  """Returns a secret as a train state holds it: uint32 arrays."""
  return {name: np.array(words, np.uint32) for name, words in secret.items()}


def key(secret: Any, purpose: str, step: jax.typing.ArrayLike) -> jax.Array:
  """Returns the key of update `step`, from 0, for 'noise' or 'dropout'; may be traced."""
  return jax.random.fold_in(jax.random.wrap_key_data(secret[purpose], impl='threefry2x32'), step)


def sampling(
  secret: Any, budget: Budget, private: PrivateSettings, num_devices: int
) -> PoissonSampling:
  """Returns what draws the batches of a run.

  Args:
    secret: of a train state.
    budget: of the run.
    private: of its step.
    num_devices: of all hosts.
  """
  words = np.asarray(secret['sampling'])
  return PoissonSampling(
    key=sum(int(word) << 32 * i for i, word in enumerate(words)),
    num_examples=budget.num_examples,
    probability=budget.probability,
    limit=budget.limit,
    slots=budget.slots(num_devices * private.microbatch),
    views=private.views,
  )
