"""How worker processes hand a batch over: in slices, through shared memory, that become whole here.

Shared memory then holds a few slices for each worker, whatever the size of the batch.
"""

import collections
import os
import queue
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from experiments.data.batch import Batch
from experiments.data.unreadable import Unreadable
from experiments.runtime.errors import DataError
from nfnets import interruption

Element = tuple[Batch, tuple[Unreadable, ...]]  # of a batch or a slice, and what was unreadable

_SHARED = '/dev/shm'
_COPIES = 4  # threads that copy slices
# Of each worker, with a buffer of one: being written, in the queue, taken out of it, at hand.
_SLICES_OF_A_WORKER = 4
_PAGE = 4096  # of memory; the least that an array takes


class Shares(NamedTuple):
  """How the examples of a host's batch are divided into slices, the last of which may be short."""

  batch: int  # examples
  slice: int  # examples

  @property
  def count(self) -> int:
    """Slices of a batch."""
    return -(-self.batch // self.slice)

  def places(self, number: int) -> tuple[int, range]:
    """The batch that a slice is of, by its number in the stream, and its places in that batch."""
    batch, place = divmod(number, self.count)
    return batch, range(place * self.slice, min((place + 1) * self.slice, self.batch))


def shared_bytes(shares: Shares, bytes_of_an_image: int, num_workers: int) -> int:
  """The most that slices take up in shared memory at any moment."""
  slices = _SLICES_OF_A_WORKER * num_workers + _COPIES + 1
  small_arrays = (len(Batch._fields) - 1) * _PAGE
  return slices * (min(shares.slice, shares.batch) * bytes_of_an_image + small_arrays)


def require_shared_memory(needed: int, num_workers: int) -> None:
  """Checks that shared memory has room; a worker that finds none is killed (SIGBUS).

  Raises:
    DataError: there is less; says what to do.
  """
  try:
    place = os.statvfs(_SHARED)
  except OSError:  # a system that keeps it elsewhere, and does not limit it so
    return
  free = place.f_bavail * place.f_frsize
  if needed > free:
    raise DataError(
      f'{num_workers} worker processes hand pictures over through /dev/shm, in up to '
      f'{needed / 2**20:,.0f} MiB, and it has {free / 2**20:,.0f} MiB free: enlarge it (docker run '
      f'--shm-size={2 * needed // 2**20 + 1}m), or lower --config.data.num_workers; 0 needs none'
    )


class Regrouped(Iterator[Element]):
  """Whole batches of slices; each slice's memory is free again as soon as it is copied."""

  def __init__(self, slices: Any, shares: Shares):
    """Takes an iterator of slices, one batch after the other, which has `close`."""
    self._slices, self._shares = slices, shares
    self._pool = futures.ThreadPoolExecutor(_COPIES, thread_name_prefix='slices')
    self._ends = threading.Event()

  def __next__(self) -> Element:
    """Returns the next batch [N, ...], its memory its own."""
    whole, unreadable, copies = None, [], collections.deque()
    for number in range(self._shares.count):
      if self._ends.is_set():
        raise StopIteration
      part, found = next(self._slices)
      if whole is None:
        size = self._shares.batch
        whole = Batch(*(np.empty((size, *array.shape[1:]), array.dtype) for array in part))
      copies.append(self._pool.submit(_copy, part, whole, number * self._shares.slice))
      del part  # shared memory is freed with the last reference
      unreadable += found
      if len(copies) == _COPIES:
        copies.popleft().result()
    for copy in copies:
      copy.result()
    return whole, tuple(unreadable)

  def stop(self) -> None:
    """Lets a thread that is at a batch leave it."""
    self._ends.set()

  def close(self) -> None:
    """Ends the processes and threads."""
    self._slices.close()
    self._pool.shutdown()


def _copy(part: Batch, whole: Batch, start: int) -> None:
  for array, target in zip(part, whole, strict=True):
    np.copyto(target[start : start + len(array)], array)


class Ahead(Iterator[Element]):
  """Batches that a thread takes from another iterator before they are asked for."""

  def __init__(self, batches: Regrouped, count: int):
    """Takes the iterator and how many batches may wait."""
    self._batches = batches
    self._ready = queue.Queue(count)
    self._ends = threading.Event()
    self._thread: threading.Thread | None = None
    self._error: BaseException | None = None

  def __next__(self) -> Element:
    """Returns the next batch, or raises what the iterator raised."""
    if self._thread is None:
      self._thread = threading.Thread(target=self._work, name='batches ahead', daemon=True)
      self._thread.start()
    if self._error is None:
      made = self._ready.get()
      if not isinstance(made, BaseException):
        return made
      self._error = made
    raise self._error

  def _work(self) -> None:
    try:
      with interruption.kept_from_children():  # this thread starts them
        while not self._ends.is_set():
          self._put(next(self._batches))
    except BaseException as error:  # for the thread that asks
      self._put(error)

  def _put(self, made: Element | BaseException) -> None:
    while not self._ends.is_set():
      try:
        return self._ready.put(made, timeout=0.1)
      except queue.Full:
        continue

  def close(self) -> None:
    """Ends the thread, after the slice that it is at, and the iterator."""
    self._ends.set()
    self._batches.stop()
    if self._thread is not None:
      self._thread.join()
    self._batches.close()
