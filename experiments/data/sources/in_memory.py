"""Pictures that are in memory or made on the spot: the embedded digits, random ones."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from experiments.data.settings import DataSettings
from experiments.data.sources.source import Example
from experiments.runtime.errors import DataError


@dataclasses.dataclass(frozen=True)
class ArraySource:
  """Pictures held in memory."""

  images: np.ndarray  # [N, H, W, 3] uint8
  labels: np.ndarray  # [N]
  names: Sequence[str]
  class_names: tuple[str, ...]
  origin: str = 'digits'

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    return zip(self.names, map(int, self.labels), strict=True)

  def paths(self) -> list[pathlib.Path]:
    return []

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> Example:
    return Example(image=self.images[index], label=int(self.labels[index]), name=self.names[index])


def digits(_settings: DataSettings) -> tuple[ArraySource, ArraySource]:
  """Scikit-learn's handwritten digits: 1,437 pictures to train on, 360 to test, 8 x 8 pixels.

  The split is stratified and always the same. The grey values 0..16 become 0..255 in three
  channels.
  """
  from sklearn import datasets, model_selection  # only this source needs it

  bunch = datasets.load_digits()
  grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)
  images = np.repeat(grey[..., None], 3, axis=-1)
  parts = model_selection.train_test_split(
    np.arange(len(images)), test_size=360, stratify=bunch.target, random_state=0
  )
  class_names = tuple(str(digit) for digit in bunch.target_names)
  train, test = (
    ArraySource(images[part], bunch.target[part], [f'digits[{i}]' for i in part], class_names)
    for part in map(np.sort, parts)
  )
  return train, test


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
  """Random pictures; picture i is a function of i and of the part alone."""

  part: int  # 0 for train, 1 for test
  size: int  # pictures
  image_size: int  # pixels
  num_classes: int
  origin: str = 'synthetic'

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    return ()

  def paths(self) -> list[pathlib.Path]:
    return []

  labels = None  # a rule

  def __len__(self) -> int:
    return self.size

  @functools.cached_property
  def class_names(self) -> tuple[str, ...]:
    return tuple(f'class {label}' for label in range(self.num_classes))

  def __getitem__(self, index: int) -> Example:
    rng = np.random.Generator(np.random.Philox(key=2 * index + self.part))
    shape = (self.image_size, self.image_size, 3)
    image = np.frombuffer(rng.bytes(self.image_size**2 * 3), np.uint8).reshape(shape)
    return Example(image=image, label=index % self.num_classes, name=f'synthetic[{index}]')


def synthetic(settings: DataSettings) -> tuple[SyntheticSource, SyntheticSource]:
  """Random uint8 pictures of `data.image_size`: `num_examples` to train on, a tenth to test.

  Raises:
    DataError: no picture is asked for.
  """
  if settings.num_examples < 1:
    raise DataError(
      'synthetic pictures are as many as --config.data.num_examples says: set at least 1, got '
      f'{settings.num_examples}.'
    )
  sizes = (settings.num_examples, max(1, settings.num_examples // 10))
  train, test = (
    SyntheticSource(part, size, settings.image_size, settings.num_classes)
    for part, size in enumerate(sizes)
  )
  return train, test
