"""Where pictures come from: the embedded digits, a folder, a TFDS data set, random images.

Every source is a sequence with random access, so that a batch is a function of indices alone, and
can be pickled for the worker processes.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol, TypedDict

import numpy as np
from ml_collections import ConfigDict

from experiments.data.sources import folder, packed_folder
from experiments.runtime.errors import DataError


class Example(TypedDict):
  """One labelled picture."""

  image: bytes | np.ndarray  # an encoded picture, or uint8 [H, W, 3] RGB
  label: int
  name: str  # the file's path within its source, or its index: what messages call it


class ReadError(ValueError):
  """A picture that cannot be read: its name, and why."""

  def __init__(self, name: str, reason: str):
    """Takes the two parts of what a message says."""
    super().__init__(name, reason)
    self.name, self.reason = name, reason


class Source(Protocol):
  """A sequence of labelled pictures."""

  class_names: tuple[str, ...]

  def __len__(self) -> int:
    """Returns the number of pictures."""

  def __getitem__(self, index: int) -> Example:
    """Returns picture `index`; raises OSError or ReadError if it cannot be read."""


def open_sources(config: ConfigDict) -> tuple[Source, Source]:
  """Opens the train and the test source of `config.data`.

  Raises:
    DataError: the source is unknown or what it needs is missing; see each source's function.
  """
  openers = {'digits': digits, 'folder': folder_parts, 'synthetic': synthetic, 'tfds': tfds}
  if config.data.source not in openers:
    raise DataError(f'unknown data.source {config.data.source!r}; choose one of {tuple(openers)}')
  return openers[config.data.source](config.data)


@dataclasses.dataclass(frozen=True)
class ArraySource:
  """Pictures held in memory."""

  images: np.ndarray  # [N, H, W, 3] uint8
  labels: np.ndarray  # [N]
  names: Sequence[str]
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.images)

  def __getitem__(self, index: int) -> Example:
    return Example(image=self.images[index], label=int(self.labels[index]), name=self.names[index])


def digits(_data: ConfigDict) -> tuple[ArraySource, ArraySource]:
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
class FolderSource:
  """Encoded pictures in a tree of files, read when asked for."""

  root: pathlib.Path
  files: folder.Files
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files.names)

  def __getitem__(self, index: int) -> Example:
    name = self.files.names[index]
    return Example(image=(self.root / name).read_bytes(), label=self.files.labels[index], name=name)


@dataclasses.dataclass(frozen=True)
class PackedSource:
  """The same pictures in one file."""

  records: packed_folder.Records
  places: list[int]  # of each picture among the records
  files: folder.Files
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files.names)

  def __getitem__(self, index: int) -> Example:
    name = self.files.names[index]
    try:
      image = self.records[self.places[index]]
    except ValueError as error:
      raise ReadError(name, str(error)) from None
    return Example(image=image, label=self.files.labels[index], name=name)


def folder_parts(data: ConfigDict) -> tuple[Source, Source]:
  """Pictures in one sub-folder per class under `data.dir`; see `folder.scan` for the layouts.

  The folder may have been packed by scripts/pack_folder.py; the pictures are the same ones.

  Raises:
    DataError: as `folder.scan`, or the folder is missing, or its packed files are damaged.
  """
  is_packed = packed_folder.is_packed(data.dir)
  listing = packed_folder.PackedListing(data.dir) if is_packed else folder.DiskListing(data.dir)
  *parts, class_names = folder.scan(
    listing, data.train_split, data.test_split, data.held_out_fraction
  )
  if not is_packed:
    train, test = (FolderSource(listing.root, files, class_names) for files in parts)
    return train, test
  records = packed_folder.Records(listing.root)
  train, test = (
    PackedSource(records, [listing.places[name] for name in files.names], files, class_names)
    for files in parts
  )
  return train, test


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
  """Random pictures; picture i is a function of i and of the part alone."""

  part: int  # 0 for train, 1 for test
  size: int  # pictures
  image_size: int  # pixels
  num_classes: int

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


def synthetic(data: ConfigDict) -> tuple[SyntheticSource, SyntheticSource]:
  """Random uint8 pictures of `data.image_size`: `num_examples` to train on, a tenth to test.

  Raises:
    DataError: fewer than 1 picture or 2 classes are asked for.
  """
  if data.num_examples < 1 or data.num_classes < 2:
    raise DataError(
      f'data.source synthetic got data.num_examples = {data.num_examples} and data.num_classes = '
      f'{data.num_classes}; set at least 1 example and 2 classes'
    )
  sizes = (data.num_examples, max(1, data.num_examples // 10))
  train, test = (
    SyntheticSource(part, size, data.image_size, data.num_classes)
    for part, size in enumerate(sizes)
  )
  return train, test


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """One split of a TFDS data set in array_record files, its pictures left encoded."""

  records: Sequence[dict]
  split: str
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Example:
    name = f'{self.split}[{index}]'
    try:
      record = self.records[index]
    except Exception as error:  # array_record's and protobuf's have no common type
      reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(';')[0]
      raise ReadError(name, f'its record is damaged ({reason})') from None
    name = record.get('file_name', name)
    name = name.decode() if isinstance(name, bytes) else str(name)
    return Example(image=record['image'], label=int(record['label']), name=name)


def tfds(data: ConfigDict) -> tuple[TfdsSource, TfdsSource]:
  """A TFDS data set by name, which must already be prepared in the array_record format.

  Raises:
    DataError: no name, TFDS does not know it, it is not prepared, its files are of another format,
      it is no labelled picture set, or a split does not exist.
  """
  import tensorflow_datasets  # slow to import, and only this source needs it

  if not data.name:
    raise DataError('data.source tfds needs a data set; set data.name, e.g. to imagenet2012')
  place = data.dir or '~/tensorflow_datasets'
  try:
    builder = tensorflow_datasets.builder(data.name, data_dir=os.path.expanduser(data.dir) or None)
  except tensorflow_datasets.core.DatasetNotFoundError:
    raise DataError(
      f'TFDS knows no data set {data.name!r} and {place} holds none; check data.name and data.dir'
    ) from None
  except ValueError:
    raise DataError(
      f'{data.name!r} is no TFDS name; expected name, name/config or name:version in data.name'
    ) from None
  info = builder.info
  if not info.splits:
    raise DataError(
      f'{data.name} is not prepared in {place}; prepare it once with ./scripts/prepare_imagenet.sh '
      f'--name {data.name} --out {place}, or set data.dir'
    )
  if info.file_format.value != 'array_record':
    raise DataError(
      f'{data.name} in {place} is stored as {info.file_format.value}, which has no random access; '
      f'prepare it again with ./scripts/prepare_imagenet.sh --name {data.name} --out ANOTHER_DIR'
    )
  if not {'image', 'label'} <= set(info.features):
    raise DataError(
      f'{data.name} has the features {sorted(info.features)}; expected image and label: choose '
      'a classification data set'
    )
  train, test = (_tfds_split(builder, split) for split in (data.train_split, data.test_split))
  return train, test


def _tfds_split(builder, split: str) -> TfdsSource:
  from tensorflow_datasets import decode

  try:
    records = builder.as_data_source(split, decoders={'image': decode.SkipDecoding()})
  except ValueError:
    raise DataError(
      f'{builder.name} has no split {split!r}; choose data.train_split and data.test_split '
      f'from {sorted(builder.info.splits)}'
    ) from None
  return TfdsSource(records, split, tuple(builder.info.features['label'].names))
