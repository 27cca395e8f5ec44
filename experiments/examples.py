"""From indices to one host's batch: what runs in the threads and worker processes."""

import dataclasses
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from experiments.augment import crop
from experiments.batch import Batch
from experiments.errors import DataError
from experiments.sources import Source
from nfnets import images, inference

Unreadable = tuple[str, str]  # a picture's name, and why it cannot be used


class Prepared(NamedTuple):
  """One example, ready to be put in a batch."""

  image: np.ndarray | None  # float32 [size, size, 3] on the scale 0..255; None: left black
  label: int
  mask: float  # 0 if it must not count
  unreadable: tuple[Unreadable, ...]  # pictures that were met and could not be used


class Draw(NamedTuple):
  """Which training example to make, and the seed of its augmentation."""

  index: int
  seed: int


def draw_seed(index: int, rng: np.random.Generator) -> Draw:
  """Gives an example the seed of its own generator, drawn from Grain's for that position."""
  return Draw(index, int(rng.integers(2**63)))


def _read(source: Source, index: int) -> tuple[np.ndarray, int]:
  """Returns a picture, uint8 [H, W, 3], and its label; raises _UnreadableError."""
  name = f'number {index}'
  try:
    example = source[index]
    name, image = example['name'], example['image']
    image = image if isinstance(image, np.ndarray) else images.decode(image)
  except OSError as error:
    raise _UnreadableError((str(error.filename or name), error.strerror or str(error))) from None
  except ValueError as error:
    raise _UnreadableError((name, str(error))) from None
  return image, example['label']


class _UnreadableError(Exception):
  """Carries one Unreadable."""


@dataclasses.dataclass(frozen=True)
class TrainExample:
  """Makes one augmented training example; a function of the source and a Draw alone."""

  source: Source
  image_size: int  # pixels
  crop: str
  crop_area: tuple[float, float]
  crop_aspect: tuple[float, float]
  shift_fraction: float
  flip: bool
  max_unreadable: int  # gives up after so many in a row: more than the run accepts

  @classmethod
  def from_config(cls, source: Source, data: ConfigDict, max_unreadable: int) -> 'TrainExample':
    """Takes the fields from `config.data`; raises DataError for an unknown `data.crop`."""
    if data.crop not in ('random', 'shift', 'none'):
      raise DataError(f"unknown data.crop {data.crop!r}; choose 'random', 'shift' or 'none'")
    return cls(
      source=source,
      image_size=data.image_size,
      crop=data.crop,
      crop_area=tuple(data.crop_area),
      crop_aspect=tuple(data.crop_aspect),
      shift_fraction=data.shift_fraction,
      flip=data.flip,
      max_unreadable=max_unreadable,
    )

  def __call__(self, draw: Draw) -> Prepared:
    """Reads, decodes and augments; an unreadable picture gives way to the next of the source."""
    unreadable = []
    while len(unreadable) < self.max_unreadable:
      try:
        image, label = _read(self.source, (draw.index + len(unreadable)) % len(self.source))
      except _UnreadableError as error:
        unreadable.append(error.args[0])
      else:
        rng = np.random.Generator(np.random.Philox(key=draw.seed))
        return Prepared(self._augment(image, rng), label, 1.0, tuple(unreadable))
    return Prepared(None, 0, 0.0, tuple(unreadable))  # too many: the main process ends the run

  def _augment(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = self.image_size
    if self.crop == 'random':
      image = crop.random_resized_crop(
        image, size, rng, area=self.crop_area, aspect=self.crop_aspect
      )
    else:
      image = images.resize_bicubic(image, (size, size))
    if self.crop == 'shift':
      image = crop.random_shift(image, self.shift_fraction, rng)
    # The kernel is symmetric, so flipping the small result equals flipping the crop.
    return crop.random_flip(image, rng) if self.flip else image


@dataclasses.dataclass(frozen=True)
class EvaluationExample:
  """Makes one example of the test set; an index past its end is padding."""

  source: Source
  image_size: int  # pixels
  mode: str

  @classmethod
  def from_config(cls, source: Source, data: ConfigDict) -> 'EvaluationExample':
    """Takes the fields from `config.data`; raises DataError for an unknown `data.eval_mode`."""
    if data.eval_mode not in inference.EVALUATION_MODES:
      raise DataError(
        f'unknown data.eval_mode {data.eval_mode!r}; choose one of {inference.EVALUATION_MODES}'
      )
    return cls(source, data.eval_image_size, data.eval_mode)

  def __call__(self, index: int) -> Prepared:
    """Reads, decodes and resizes."""
    if index >= len(self.source):
      return Prepared(None, 0, 0.0, ())
    try:
      image, label = _read(self.source, index)
    except _UnreadableError as error:
      return Prepared(None, 0, 0.0, (error.args[0],))
    return Prepared(
      inference.resize_for_evaluation(image, self.image_size, self.mode), label, 1.0, ()
    )


class MakeBatch:
  """Makes one host's batch of a list of draws (training) or indices (test).

  Examples are independent, so they are made by a pool of threads (decoding and resizing release
  the interpreter lock) and written at their place.
  """

  def __init__(self, make_example: Callable[[Any], Prepared], num_devices: int, num_threads: int):
    self._make_example = make_example
    self._num_devices = num_devices
    self._num_threads = num_threads
    self._pool = None
    self._lock = threading.Lock()

  def __reduce__(self):
    # A worker process gets the arguments and makes its own threads.
    return type(self), (self._make_example, self._num_devices, self._num_threads)

  def __call__(self, items: list) -> tuple[Batch, tuple[Unreadable, ...]]:
    """Returns the batch and the pictures that could not be used, which may repeat."""
    size = self._make_example.image_size
    pixels = np.zeros((len(items), size, size, 3), np.float32)

    def put(place: int) -> Prepared:
      prepared = self._make_example(items[place])
      if prepared.image is not None:
        pixels[place] = prepared.image
      return prepared._replace(image=None)

    prepared = list(self._map(put, range(len(items))))
    labels = np.array([example.label for example in prepared], np.int32)
    mask = np.array([example.mask for example in prepared], np.float32)
    unreadable = tuple(bad for example in prepared for bad in example.unreadable)
    # Mixing belongs here: it takes pixels on the scale 0..255 and gives mix_labels and mix_ratio.
    pixels = images.normalize(pixels)
    batch = Batch(pixels, labels, labels, np.ones(len(items), np.float32), mask)
    split = (self._num_devices, len(items) // self._num_devices)
    return Batch(*(part.reshape(split + part.shape[1:]) for part in batch)), unreadable

  def _map(self, function: Callable[[int], Prepared], places: range):
    if self._num_threads < 2:
      return map(function, places)
    with self._lock:
      if self._pool is None:
        self._pool = futures.ThreadPoolExecutor(self._num_threads)
    return self._pool.map(function, places)
