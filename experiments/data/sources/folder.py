"""A folder of pictures: their classes and their split, found by looking; files read when asked."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from absl import logging

from experiments.data.settings import DataSettings
from experiments.data.sources.source import Example
from experiments.runtime.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


class Files(NamedTuple):
  """Labelled pictures."""

  names: list[str]  # paths relative to the folder, sorted within each class
  labels: list[int]


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Encoded pictures in a tree of files, read when asked for."""

  root: pathlib.Path
  files: Files
  class_names: tuple[str, ...]

  def __len__(self) -> int:
    return len(self.files.names)

  def __getitem__(self, index: int) -> Example:
    name = self.files.names[index]
    return Example(image=(self.root / name).read_bytes(), label=self.files.labels[index], name=name)


class Listing(Protocol):
  """The pictures of a folder, on a disk or packed."""

  root: pathlib.Path

  def has(self, part: str) -> bool:
    """Whether there is a sub-folder of this name."""

  def classes(self, part: str) -> dict[str, list[str]]:
    """Maps each class folder of a sub-folder ('': of the root) to its pictures, sorted.

    Pictures are paths relative to the root, with '/' between their parts.
    """


class DiskListing:
  """A folder of files."""

  def __init__(self, root: str):
    """Raises DataError if there is no such folder."""
    self.root = pathlib.Path(root).expanduser()
    if not root or not self.root.is_dir():
      raise DataError(
        f'the image folder {root!r} does not exist; set data.dir to an existing folder'
      )

  def has(self, part: str) -> bool:
    """See Listing."""
    return (self.root / part).is_dir()

  def classes(self, part: str) -> dict[str, list[str]]:
    """See Listing; a folder without pictures is left out with a warning."""
    classes = {}
    for entry in _entries(self.root / part, self.root.resolve()):
      if entry.is_dir():
        names = sorted(self._names(entry.path))
        if names:
          classes[entry.name] = names
        else:
          logging.warning('%s holds no pictures and is left out', entry.path)
    return classes

  def all_names(self) -> list[str]:
    """Returns every picture below the root, sorted."""
    return sorted(self._names(self.root))

  def _names(self, place: str | pathlib.Path) -> Iterator[str]:
    prefix = os.path.join(self.root, '')
    for path in _pictures(place, self.root.resolve()):
      yield path.removeprefix(prefix)


def open_parts(settings: DataSettings) -> tuple[FolderSource, FolderSource]:
  """Opens the train and the test part of `data.dir`; see `scan` for the layouts.

  Raises:
    DataError: as `scan`, or the folder is missing.
  """
  listing = DiskListing(settings.dir)
  *parts, class_names = scan(
    listing, settings.train_split, settings.test_split, settings.held_out_fraction
  )
  train, test = (FolderSource(listing.root, files, class_names) for files in parts)
  return train, test


def scan(
  listing: Listing, train_split: str, test_split: str, held_out_fraction: float
) -> tuple[Files, Files, tuple[str, ...]]:
  """Lists an image folder.

  Layouts: root/<train_split>/<class>/... with root/<test_split>/<class>/...; without the test
  folder, or with root/<class>/... alone, a share of every class is held out, chosen by a hash of
  the relative path, so the same on every machine. Files below a class folder count at any depth;
  hidden ones do not. Symbolic links that lead out of root are left out with a warning.

  Args:
    listing: the folder.
    train_split: name of the sub-folder with the pictures to train on.
    test_split: name of the sub-folder with the pictures to test on.
    held_out_fraction: share of each class kept for the test where there is no test folder.

  Returns:
    The train files, the test files and the class names in the order of the labels.

  Raises:
    DataError: the folder has no pictures, fewer than two classes, a class without
      training pictures, nothing left to test on, or a fraction outside 0..1.
  """
  root = listing.root
  if listing.has(test_split) and not listing.has(train_split):
    raise DataError(
      f'{root} has a folder {test_split!r} but no {train_split!r}; add it, or set data.train_split'
    )
  train = listing.classes(train_split if listing.has(train_split) else '')
  if len(train) < 2:
    found = f'only the class {next(iter(train))!r}' if train else 'no class folders with pictures'
    raise DataError(
      f'{root} holds {found}; expected at least two folders, one per class, with '
      f'{" ".join(EXTENSIONS)} files'
    )
  class_names = tuple(sorted(train))
  if listing.has(test_split):
    test = listing.classes(test_split)
    _check_classes(root, train, test)
  else:
    train, test = _hold_out(train, held_out_fraction)
  if not any(test.values()):
    raise DataError(
      f'{root} leaves no pictures to test on; add some under {test_split!r} or raise '
      'data.held_out_fraction'
    )
  return _files(train, class_names), _files(test, class_names), class_names


def _check_classes(
  root: pathlib.Path, train: dict[str, list[str]], test: dict[str, list[str]]
) -> None:
  only_test = sorted(set(test) - set(train))
  if only_test:
    raise DataError(
      f'{root} has test pictures but no training pictures of the class {only_test[0]!r} '
      f'({len(only_test)} such classes); add some or remove its test folder'
    )
  only_train = sorted(set(train) - set(test))
  if only_train:
    logging.warning('%s has no test pictures of %d classes: %s', root, len(only_train), only_train)


def _files(names: dict[str, list[str]], class_names: tuple[str, ...]) -> Files:
  pairs = [(name, label) for label, kind in enumerate(class_names) for name in names.get(kind, ())]
  return Files([name for name, _ in pairs], [label for _, label in pairs])


def _pictures(place: str | pathlib.Path, inside: pathlib.Path) -> Iterator[str]:
  for entry in _entries(place, inside):
    # A linked folder is not entered, so that no loop of links can trap the walk.
    if entry.is_dir(follow_symlinks=False):
      yield from _pictures(entry.path, inside)
    elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
      yield entry.path


def _entries(place: str | pathlib.Path, inside: pathlib.Path) -> Iterator[os.DirEntry]:
  """Yields the visible entries of a folder, without links that lead out of `inside`."""
  with os.scandir(place) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      if entry.name.startswith('.'):
        continue
      if entry.is_symlink() and not pathlib.Path(entry.path).resolve().is_relative_to(inside):
        logging.warning('%s is a link that leads out of %s and is left out', entry.path, inside)
        continue
      yield entry


def _hold_out(
  classes: dict[str, list[str]], fraction: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
  """Splits every class; each keeps a training picture and, of two or more, gives one to test."""
  if not 0 < fraction < 1:
    raise DataError(
      f'data.held_out_fraction is {fraction}, but without a test folder it must lie between 0 and 1'
    )
  train, test = {}, {}
  for kind, names in classes.items():
    ranked = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    count = min(len(names) - 1, max(1, round(fraction * len(names))))
    train[kind], test[kind] = sorted(ranked[count:]), sorted(ranked[:count])
  return train, test
