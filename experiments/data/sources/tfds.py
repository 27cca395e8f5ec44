"""A TFDS data set in array_record files, read without TensorFlow."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence

from experiments.data.settings import DataSettings
from experiments.data.sources.source import Example, ReadError, blame_machine
from experiments.runtime.errors import DataError


@dataclasses.dataclass(frozen=True)
class TfdsSource:
  """One split of a TFDS data set in array_record files, its pictures left encoded."""

  records: Sequence[dict]
  split: str
  class_names: tuple[str, ...]
  labels = None  # in the records
  origin: str
  folder: str  # of the files

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    return ()

  def paths(self) -> list[pathlib.Path]:
    return sorted(pathlib.Path(self.folder).iterdir())

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Example:
    name = f'{self.split}[{index}]'
    try:
      record = self.records[index]
    except Exception as error:  # array_record's and protobuf's have no common type
      blame_machine(error, name)
      reason = (str(error).strip() or type(error).__name__).splitlines()[0].partition(';')[0]
      raise ReadError(name, f'its record is damaged ({reason})') from None
    name = record.get('file_name', name)
    name = name.decode() if isinstance(name, bytes) else str(name)
    return Example(image=record['image'], label=int(record['label']), name=name)


def open_splits(settings: DataSettings) -> tuple[TfdsSource, TfdsSource]:
  """A TFDS data set by name, which must already be prepared in the array_record format.

  Raises:
    DataError: no name, TFDS does not know it, it is not prepared, its files are of another format,
      it is no labelled picture set, or a split does not exist.
  """
  import tensorflow_datasets  # slow to import, and only this source needs it

  name, place = settings.name, settings.dir or '~/tensorflow_datasets'
  if not name:
    raise DataError(
      '--config.data.source=tfds needs a data set: set --config.data.name, e.g. to imagenet2012'
    )
  try:
    builder = tensorflow_datasets.builder(name, data_dir=os.path.expanduser(settings.dir) or None)
  except tensorflow_datasets.core.DatasetNotFoundError:
    raise DataError(
      f'TFDS knows no data set {name!r} and {place} holds none; check '
      '--config.data.name and --config.data.dir'
    ) from None
  except ValueError:
    raise DataError(
      f'{name!r} is no TFDS name; expected name, name/config or name:version in --config.data.name'
    ) from None
  info = builder.info
  if not info.splits:
    raise DataError(
      f'{name} is not prepared in {place}; prepare it once with ./scripts/prepare_imagenet.sh '
      f'--name {name} --out {place}, or set --config.data.dir'
    )
  if info.file_format.value != 'array_record':
    raise DataError(
      f'{name} in {place} is stored as {info.file_format.value}, which has no random access; '
      f'prepare it again with ./scripts/prepare_imagenet.sh --name {name} --out ANOTHER_DIR'
    )
  if not {'image', 'label'} <= set(info.features):
    raise DataError(
      f'{name} has the features {sorted(info.features)}; expected image and label: choose '
      'a classification data set'
    )
  train, test = (_split(builder, split) for split in (settings.train_split, settings.test_split))
  return train, test


def _split(builder, split: str) -> TfdsSource:
  from tensorflow_datasets import decode

  try:
    records = builder.as_data_source(split, decoders={'image': decode.SkipDecoding()})
  except ValueError:
    raise DataError(
      f'{builder.name} has no split {split!r}; choose --config.data.train_split and '
      '--config.data.test_split '
      f'from {sorted(builder.info.splits)}'
    ) from None
  return TfdsSource(
    records,
    split,
    tuple(builder.info.features['label'].names),
    origin=f'{builder.info.full_name} {split}',
    folder=os.fspath(builder.data_path),
  )
