"""Poisson sampling, which the accounts of private training assume.

Every example is in a batch with the same probability, whatever else is in it and in the others, so
that batches have different sizes: they are padded to one shape, with mask 0. Neither shuffled
epochs nor batches of one size fit those accounts (arXiv 2411.04205).
"""

import dataclasses
import functools

import numpy as np

from experiments.data.one_example import PADDING, Draw


@dataclasses.dataclass(frozen=True, kw_only=True)
class PoissonSampling:
  """Draws the batches of a run: that of an update is a function of `key` and its number alone.

  So a resumed run draws what an unbroken one does, on any number of devices.

  Attributes:
    key: 128 secret bits.
    num_examples: of the training set.
    probability: with which each is drawn, above 0, to 1.
    limit: examples of a batch at most. Of more, this many are chosen at random; the run sets aside
      a part of its delta for that (`training.privacy_budget`).
    slots: examples that a batch has room for over all devices of all hosts, at least `limit`.
    views: differently augmented pictures of each drawn example, one after the other in the batch.
  """

  key: int
  num_examples: int
  probability: float
  limit: int
  slots: int
  views: int = 1

  def drawn(self, step: int) -> np.ndarray:
    """Returns the examples of update `step`, from 0: indices [m] int64, ascending."""
    return self._drawn(self._generator(step))

  def draws(
    self, step: int, num_devices: int, process_index: int = 0, process_count: int = 1
  ) -> list[Draw]:
    """Returns one host's share of the batch of update `step`, from 0.

    Args:
      step: number of the update.
      num_devices: local devices of each host.
      process_index: number of this host.
      process_count: number of hosts.

    Returns:
      num_devices * B draws, B of each device one after the other. The drawn examples are dealt out
      to the devices of all hosts in turn, so that each has as many as the others, or one less, and
      after them its padding.
    """
    rng = self._generator(step)
    drawn = self._drawn(rng)
    seeds = rng.integers(2**63, size=(len(drawn), self.views))
    devices = num_devices * process_count
    first = process_index * num_devices
    return [
      Draw(int(drawn[place]), PADDING, int(seeds[place, view])) if place < len(drawn)
      else Draw(PADDING, PADDING, 0)
      for device in range(first, first + num_devices)
      for place in range(device, self.slots, devices)
      for view in range(self.views)
    ]  # fmt: skip

  def _generator(self, step: int) -> np.random.Generator:
    """A stream for each update: no two ever meet, whatever they take."""
    return np.random.Generator(np.random.Philox(key=self.key, counter=step << 128))

  def _drawn(self, rng: np.random.Generator) -> np.ndarray:
    drawn = np.flatnonzero(rng.random(self.num_examples) < self.probability)
    if len(drawn) > self.limit:
      drawn = np.sort(rng.choice(drawn, self.limit, replace=False))
    return drawn


@dataclasses.dataclass(frozen=True)
class HostDraws:
  """A host's draws of one batch after the other, without end, as a sequence."""

  sampling: PoissonSampling
  num_devices: int  # local
  process_index: int = 0
  process_count: int = 1

  @property
  def batch(self) -> int:
    """Draws of a batch, padding among them."""
    return self.sampling.slots * self.sampling.views // self.process_count

  def __getitem__(self, place: int) -> Draw:
    """Returns the draw of a place in the stream."""
    step, place = divmod(place, self.batch)
    return _of_step(self, step)[place]


@functools.lru_cache(maxsize=4)  # a batch is asked for in pieces
def _of_step(host: HostDraws, step: int) -> list[Draw]:
  return host.sampling.draws(step, host.num_devices, host.process_index, host.process_count)
