"""A folder of pictures in one file: written once, then read quicker than many small files.

The packed folder is a folder with two files: `pictures.array_record`, whose records are the
picture files byte for byte, and `index.json`, the paths that they had. Splits and classes follow
from those paths when the folder is read, so a run on it equals one on the original bit for bit.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable

from array_record.python import array_record_data_source, array_record_module

from experiments.data.settings import DataSettings
from experiments.data.sources import folder
from experiments.data.sources.source import Example, ReadError, blame_machine
from experiments.runtime.errors import DataError
from nfnets import interruption, picture_files

INDEX_NAME = 'index.json'
RECORDS_NAME = 'pictures.array_record'
_FORMAT = 'nfnets packed folder 1'


class PackedListing:
  """The pictures of a packed folder, as `folder.scan` takes them."""

  kind = picture_files.PICTURES

  def __init__(self, root: str):
    """Reads the index; raises DataError if it is not one, or belongs to other records."""
    self.root = pathlib.Path(os.path.expanduser(root))
    path = self.root / INDEX_NAME
    try:
      index = json.loads(path.read_text(encoding='utf-8'))
      if index['format'] != _FORMAT:
        raise ValueError(index['format'])
      names = index['names']
    except (OSError, ValueError, KeyError, TypeError):
      raise DataError(
        f'{path} is not the index of a packed folder; pack it again with nfnets pack-folder'
      ) from None
    self.places = {name: place for place, name in enumerate(names)}
    if len(Records(self.root)) != len(names):
      raise DataError(
        f'{self.root} has {len(Records(self.root))} records but the names of {len(names)}; pack it '
        'again with nfnets pack-folder'
      )

  def has(self, part: str) -> bool:
    """See folder_layout.Listing."""
    return any(name.startswith(f'{part}/') for name in self.places)

  def folders(self) -> list[str]:
    """See folder_layout.Listing."""
    return sorted({name.partition('/')[0] for name in self.places if '/' in name})

  def classes(self, part: str) -> dict[str, list[str]]:
    """See folder_layout.Listing."""
    prefix = f'{part}/' if part else ''
    classes = {}
    for name in sorted(self.places):
      kind, slash, _ = name.removeprefix(prefix).partition('/')
      if name.startswith(prefix) and slash:
        classes.setdefault(kind, []).append(name)
    return classes


class Records:
  """The records of a packed folder: random access from any thread, and from worker processes."""

  def __init__(self, root: pathlib.Path):
    """Opens the file; raises DataError if it is missing, empty or cut off."""
    self._path = root / RECORDS_NAME
    try:
      self._source = array_record_data_source.ArrayRecordDataSource(os.fspath(self._path))
      len(self._source)
    except (OSError, RuntimeError, ValueError):
      raise DataError(
        f'{self._path} is missing or cut off; pack the folder again with nfnets pack-folder'
      ) from None

  def paths(self) -> list[pathlib.Path]:
    """Returns the two files of the packed folder."""
    return [self._path, self._path.with_name(INDEX_NAME)]

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, place: int) -> bytes:
    """Returns one picture file; raises ValueError if its record is damaged."""
    try:
      return self._source[place]
    except (OSError, RuntimeError, ValueError) as error:
      blame_machine(error, f'record {place} of {self._path}')
      raise ValueError(f'its record is damaged ({str(error).partition(";")[0]})') from None


@dataclasses.dataclass(frozen=True)
class PackedSource(folder.Listed):
  """The pictures of a folder, in one file."""

  records: Records
  places: list[int]  # of each picture among the records
  files: folder.Files
  class_names: tuple[str, ...]
  origin: str = 'folder'  # the pictures are the same

  def paths(self) -> list[pathlib.Path]:
    return self.records.paths()

  def __getitem__(self, index: int) -> Example:
    name = self.files.names[index]
    try:
      image = self.records[self.places[index]]
    except ValueError as error:
      raise ReadError(name, str(error)) from None
    return Example(image=image, label=self.files.labels[index], name=name)


def is_packed(root: str) -> bool:
  """Whether a folder is a packed one."""
  return bool(root) and (pathlib.Path(os.path.expanduser(root)) / INDEX_NAME).is_file()


def open_parts(settings: DataSettings) -> tuple[PackedSource, PackedSource]:
  """Opens the train and the test part of `data.dir`, as `folder.open_parts` those of a plain one.

  Raises:
    DataError: as `folder.scan`, or the packed files are missing or damaged.
  """
  listing = PackedListing(settings.dir)
  *parts, class_names = folder.scan(
    listing, settings.train_split, settings.test_split, settings.held_out_fraction
  )
  records = Records(listing.root)
  train, test = (
    PackedSource(records, [listing.places[name] for name in files.names], files, class_names)
    for files in parts
  )
  return train, test


def pack(
  source: str,
  out: str,
  progress: Callable[[Iterable[str]], Iterable[str]] = lambda names: names,
) -> int:
  """Packs every picture below a folder.

  All is written beside `out` and gets that name only when it is whole and checked, so that nothing
  that looks complete is left by a kill or a full disk; the next call removes what a kill left.

  Args:
    source: a folder of pictures, in any of the layouts that `folder.scan` knows.
    out: the packed folder to make; must not exist.
    progress: wraps the names while they are written, e.g. `tqdm.tqdm`.

  Returns:
    The number of pictures.

  Raises:
    DataError: the folder is missing or without pictures, `out` exists or cannot be written, or a
      file cannot be read.
  """
  target = pathlib.Path(out).expanduser()
  names = folder.DiskListing(source).all_names()
  if not names:
    raise DataError(f'{source} holds no pictures; expected {" ".join(picture_files.ENDINGS)} files')
  if target.exists():
    raise DataError(f'{out} exists already; choose another place, or remove it to pack again')
  unfinished = target.with_name(f'.{target.name}.unfinished')
  remove = functools.partial(shutil.rmtree, unfinished, ignore_errors=True)
  remove()
  try:
    with interruption.undone(remove):
      _pack(pathlib.Path(source).expanduser(), names, progress, unfinished)
      unfinished.rename(target)
  except (OSError, RuntimeError, UnicodeError, DataError) as error:  # RuntimeError: the writer's
    raise DataError(f'packing {source} into {out} failed: {error}; nothing is left there') from None
  finally:
    remove()
  return len(names)


def _pack(
  source: pathlib.Path,
  names: list[str],
  progress: Callable[[Iterable[str]], Iterable[str]],
  place: pathlib.Path,
) -> None:
  """Writes the two files of a packed folder and checks them."""
  place.mkdir(parents=True)
  _write_records(source, progress(names), place / RECORDS_NAME)
  index = json.dumps({'format': _FORMAT, 'names': names}, indent=0)
  (place / INDEX_NAME).write_text(index, encoding='utf-8')
  if len(Records(place)) != len(names):
    raise OSError(f'only {len(Records(place))} of {len(names)} records were written')
  for name in (RECORDS_NAME, INDEX_NAME):
    _flush(place / name)


def _write_records(source: pathlib.Path, names: Iterable[str], path: pathlib.Path) -> None:
  # One picture a group, because they are read in random order; they are compressed already.
  writer = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
  try:
    for name in names:
      writer.write(picture_files.read(source / name))
  except BaseException:
    with contextlib.suppress(RuntimeError):
      writer.close()
    raise
  writer.close()


def _flush(path: pathlib.Path) -> None:
  with path.open('rb') as file:
    os.fsync(file.fileno())
