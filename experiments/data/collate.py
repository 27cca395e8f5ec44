"""From a number in the stream to a slice of a host's batch: the threads that make its examples."""

import dataclasses
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import cv2
import numpy as np

from experiments.data.augment import mixing
from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.examples import EvaluationExample, TrainExample
from experiments.data.handover import Shares
from experiments.data.one_example import Cropped, Draw, Made
from experiments.data.unreadable import Unreadable


@functools.cache
def _threads(_process: int, count: int) -> futures.ThreadPoolExecutor:
  """Returns the threads of this process that make examples."""
  cv2.setNumThreads(0)  # one picture is too small to share, and these threads share the batch
  parent = multiprocessing.parent_process()
  if parent is not None:
    # A worker whose run was killed would wait forever for somebody to take its batch.
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
  return futures.ThreadPoolExecutor(count, thread_name_prefix='examples')


def _map(function: Callable[[int], Any], count: int, num_threads: int) -> list:
  """Returns [function(0), ..., function(count - 1)], made by the threads of this process.

  Decoding, resizing and most of the augmentation release the interpreter lock.
  """
  num_threads = max(num_threads, 1)
  places, results = iter(range(count)), [None] * count

  def work() -> None:
    for place in places:  # shared: every thread takes the next one, whatever the last took
      results[place] = function(place)

  pool = _threads(os.getpid(), num_threads)
  for done in [pool.submit(work) for _ in range(min(num_threads, count))]:
    done.result()
  return results


def _slice(pixels: np.ndarray, made: list[Made]) -> tuple[Batch, tuple[Unreadable, ...]]:
  batch = Batch(
    images=pixels,
    labels=np.array([example.label for example in made], np.int32),
    mix_labels=np.array([example.mix_label for example in made], np.int32),
    mix_ratio=np.array([example.mix_ratio for example in made], np.float32),
    mask=np.array([example.mask for example in made], np.float32),
  )
  return batch, tuple(bad for example in made for bad in example.unreadable)


@dataclasses.dataclass(frozen=True)
class TrainSlice:
  """Makes slices of training batches, by their numbers in the stream.

  Attributes:
    draws: of this host, one after the other, without end; those of one picture together.
    shares: of a batch.
    example: makes one example.
    recipe: one of `mixing.RECIPES`.
    pairing: 'second_image': each example is mixed with a picture of its own, as published; or
      'within_batch': with the picture before its own in the host's batch: half the decoding.
    num_threads: that share the work.
    layout: of the images.
    repeats: draws of each picture, which one thread makes of one reading. `shares` divides no two.
  """

  draws: Sequence[Draw]
  shares: Shares
  example: TrainExample
  recipe: str
  pairing: str
  num_threads: int
  layout: ImageLayout = NATURAL_LAYOUT
  repeats: int = 1

  def __call__(self, number: int) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Returns the examples [N, ...] and the pictures that could not be used, which may repeat."""
    example, (*size, channels) = self.example, self.example.shape
    batch, places = self.shares.places(number)
    first = batch * self.shares.batch
    draws = [self.draws[first + place] for place in places]
    pixels = self.layout.empty(len(draws), tuple(size), channels)
    kinds = [mixing.kind_of(self.recipe, place) for place in places]

    def finish(i: int, first: Cropped, second: Cropped | None) -> Made:
      image = self.layout.room(pixels[i])
      made = example.finish(draws[i], first, second, kinds[i], image)
      self.layout.store(image, pixels[i])
      return made

    def make(i: int, example: TrainExample) -> Made:
      second = None if kinds[i] == 'none' else example.second(draws[i])
      return finish(i, example.first(draws[i]), second)

    def make_of_cropped(i: int) -> Made:
      partner = cropped[i - self.repeats]._replace(unreadable=())  # reported with its own example
      return finish(i, cropped[i], partner)

    if self.recipe == 'none' or self.pairing == 'second_image':
      made = self._map_pictures(make, len(draws))
    else:
      sources = draws
      if len(places) < self.shares.batch:  # the partners of the first are in another slice
        before = (places[0] - self.repeats) % self.shares.batch
        sources = [*draws, *(self.draws[first + before + i] for i in range(self.repeats))]
      cropped = self._map_pictures(lambda i, example: example.first(sources[i]), len(sources))
      made = _map(make_of_cropped, len(draws), self.num_threads)
    return _slice(pixels, made)

  def _map_pictures(self, function: Callable[[int, TrainExample], Any], count: int) -> list:
    """Returns [function(0, example), ...], the draws of a picture made of one reading of it."""
    if self.repeats == 1:
      return _map(lambda i: function(i, self.example), count, self.num_threads)

    def of_a_picture(i: int) -> list:
      example = self.example.of_same_pictures()
      return [function(j, example) for j in range(i * self.repeats, (i + 1) * self.repeats)]

    groups = _map(of_a_picture, count // self.repeats, self.num_threads)
    return [made for group in groups for made in group]


@dataclasses.dataclass(frozen=True)
class TestSlice:
  """Makes slices of batches of the test set; places past its end are padding.

  Attributes:
    indices: of this host's pictures, one after the other.
    shares: of a batch.
    example: makes one example.
    num_threads: that share the work.
    layout: of the images, without squares.
  """

  indices: Sequence[int]
  shares: Shares
  example: EvaluationExample
  num_threads: int
  layout: ImageLayout = NATURAL_LAYOUT

  def __call__(self, number: int) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Returns the examples [N, ...] and the pictures that could not be used."""
    *size, channels = self.example.shape
    batch, places = self.shares.places(number)
    indices = [int(self.indices[batch * self.shares.batch + place]) for place in places]
    pixels = self.layout.empty(len(indices), tuple(size), channels)
    made = _map(lambda i: self.example(indices[i], pixels[i]), len(indices), self.num_threads)
    return _slice(pixels, made)
