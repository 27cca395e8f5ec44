"""From a list of places in the stream to one host's batch: the threads that make its examples."""

import dataclasses
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import cv2
import numpy as np

from experiments.data.augment import mixing
from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.examples import EvaluationExample, TrainExample
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


def _batch(
  pixels: np.ndarray, made: list[Made], num_devices: int
) -> tuple[Batch, tuple[Unreadable, ...]]:
  batch = Batch(
    images=pixels,
    labels=np.array([example.label for example in made], np.int32),
    mix_labels=np.array([example.mix_label for example in made], np.int32),
    mix_ratio=np.array([example.mix_ratio for example in made], np.float32),
    mask=np.array([example.mask for example in made], np.float32),
  )
  split = (num_devices, len(made) // num_devices)
  unreadable = tuple(bad for example in made for bad in example.unreadable)
  return Batch(*(part.reshape(split + part.shape[1:]) for part in batch)), unreadable


@dataclasses.dataclass(frozen=True)
class TrainBatch:
  """Makes a training batch of draws.

  Attributes:
    example: makes one example.
    recipe: one of `mixing.RECIPES`.
    pairing: 'second_image': each example is mixed with a picture of its own, as published; or
      'within_batch': with the one before it in the host's batch, which halves the decoding.
    num_devices: leading axis of the batch.
    num_threads: that share the work.
    layout: of the batch's images.
  """

  example: TrainExample
  recipe: str
  pairing: str
  num_devices: int
  num_threads: int
  layout: ImageLayout = NATURAL_LAYOUT

  def __call__(self, draws: list[Draw]) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Returns the batch and the pictures that could not be used, which may repeat."""
    example, (*size, channels) = self.example, self.example.shape
    pixels = self.layout.empty(len(draws), tuple(size), channels)
    kinds = [mixing.kind_of(self.recipe, place) for place in range(len(draws))]

    def finish(place: int, first: Cropped, second: Cropped | None) -> Made:
      out = pixels[place]
      image = self.layout.room(out)
      made = example.finish(draws[place], first, second, kinds[place], image)
      self.layout.store(image, out)
      return made

    def make(place: int) -> Made:
      draw = draws[place]
      second = None if kinds[place] == 'none' else example.second(draw)
      return finish(place, example.first(draw), second)

    def make_of_cropped(place: int) -> Made:
      partner = cropped[place - 1]._replace(unreadable=())  # reported with its own example
      return finish(place, cropped[place], partner)

    if self.recipe == 'none' or self.pairing == 'second_image':
      made = _map(make, len(draws), self.num_threads)
    else:
      cropped = _map(lambda place: example.first(draws[place]), len(draws), self.num_threads)
      made = _map(make_of_cropped, len(draws), self.num_threads)
    return _batch(pixels, made, self.num_devices)


@dataclasses.dataclass(frozen=True)
class TestBatch:
  """Makes a batch of the test set of indices; those past its end are padding.

  Attributes:
    example: makes one example.
    num_devices: leading axis of the batch.
    num_threads: that share the work.
    layout: of the batch's images, without squares.
  """

  example: EvaluationExample
  num_devices: int
  num_threads: int
  layout: ImageLayout = NATURAL_LAYOUT

  def __call__(self, indices: list[int]) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Returns the batch and the pictures that could not be used."""
    *size, channels = self.example.shape
    pixels = self.layout.empty(len(indices), tuple(size), channels)
    made = _map(
      lambda place: self.example(int(indices[place]), pixels[place]), len(indices), self.num_threads
    )
    return _batch(pixels, made, self.num_devices)
