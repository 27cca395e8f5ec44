"""A folder of pictures: their classes and their split, found by looking; files read when asked."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from experiments.data.settings import DataSettings
from experiments.data.sources import folder_layout
from experiments.data.sources.source import Example
from experiments.runtime.errors import DataError
from nfnets import picture_files


class Files(NamedTuple):
  """Labelled pictures."""

  names: list[str]  # paths relative to the folder, sorted within each class
  labels: list[int]


class Listed:
  """What the sources of listed files share, however the files are kept."""

  files: Files

  def __len__(self) -> int:
    return len(self.files.names)

  @property
  def labels(self) -> list[int]:
    """See Source."""
    return self.files.labels

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    """See Source."""
    return zip(*self.files, strict=True)


@dataclasses.dataclass(frozen=True)
class FolderSource(Listed):
  """Encoded pictures in a tree of files, read when asked for."""

  root: pathlib.Path
  files: Files
  class_names: tuple[str, ...]
  origin: str = 'folder'

  def paths(self) -> list[pathlib.Path]:
    return [self.root / name for name in self.files.names]

  def __getitem__(self, index: int) -> Example:
    name = self.files.names[index]
    try:
      image = picture_files.read(self.root / name)
    except OSError as error:
      error.filename = name  # as in all other messages
      raise
    return Example(image=image, label=self.files.labels[index], name=name)


class DiskListing:
  """A folder of files."""

  def __init__(self, root: str, kind: picture_files.Kind = picture_files.PICTURES):
    """Takes what to look for; raises DataError if there is no such folder."""
    self.kind = kind
    # Where there is no such home, pathlib's own raises, and this one leaves the ~ as it is.
    self.root = pathlib.Path(os.path.expanduser(root))
    if not root or not self.root.is_dir():
      raise DataError(
        f'the folder of {kind.noun}s {root!r} does not exist; set --config.data.dir to an existing '
        'folder'
      )

  def has(self, part: str) -> bool:
    """See Listing."""
    return (self.root / part).is_dir()

  def folders(self) -> list[str]:
    """See Listing."""
    entries = picture_files.entries(self.root, self.root.resolve(), self._skipped())
    return [entry.name for entry in entries if os.path.isdir(entry.path)]

  def classes(self, part: str) -> dict[str, list[str]]:
    """See Listing; what is left out is counted in one warning."""
    place, skipped, classes = self.root / part, self._skipped(), {}
    for entry in picture_files.entries(place, self.root.resolve(), skipped):
      if os.path.isdir(entry.path):
        if names := sorted(self._names(entry.path, skipped)):
          classes[entry.name] = names
        else:
          skipped.add(f'without {self.kind.noun}s', entry.path)
      elif picture_files.has_ending(entry.name, self.kind):
        skipped.add('outside the class folders', entry.path)
    self._report(place, skipped)
    return classes

  def all_names(self) -> list[str]:
    """Returns every picture below the root, sorted."""
    skipped = self._skipped()
    names = sorted(self._names(self.root, skipped))
    self._report(self.root, skipped)
    return names

  def _names(self, place: str | pathlib.Path, skipped: picture_files.Skipped) -> Iterator[str]:
    prefix = os.path.join(self.root, '')
    for path in picture_files.walk(place, self.root.resolve(), skipped, self.kind):
      yield path.removeprefix(prefix)

  def _skipped(self) -> picture_files.Skipped:
    return picture_files.Skipped(self.root)

  def _report(self, place: pathlib.Path, skipped: picture_files.Skipped) -> None:
    if skipped:
      folder_layout.say_once(f'{place}: {skipped}')


def open_parts(
  settings: DataSettings, kind: picture_files.Kind = picture_files.PICTURES
) -> tuple[FolderSource, FolderSource]:
  """Opens the train and the test part of `data.dir`; see `scan` for the layouts.

  Args:
    settings: of the data.
    kind: of files.

  Raises:
    DataError: as `scan`, or the folder is missing.
  """
  listing = DiskListing(settings.dir, kind)
  *parts, class_names = scan(
    listing, settings.train_split, settings.test_split, settings.held_out_fraction
  )
  train, test = (FolderSource(listing.root, files, class_names, settings.source) for files in parts)
  return train, test


def scan(
  listing: folder_layout.Listing, train_split: str, test_split: str, held_out_fraction: float
) -> tuple[Files, Files, tuple[str, ...]]:
  """Lists an image folder.

  Layouts: root/<train_split>/<class>/... with root/<test_split>/<class>/...; without the test
  folder, or with root/<class>/... alone, a share of every class is held out, chosen by a hash of
  the relative path, so the same on every machine. `folder_layout.divide` says which other names of
  the two folders do, `picture_files` which files below a class folder, at any depth, are pictures.

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
  train, test = folder_layout.divide(listing, train_split, test_split)
  class_names = tuple(sorted(train))
  if test is None:
    train, test = _hold_out(train, held_out_fraction)
  else:
    _check_classes(root, train, test, listing.kind.noun)
  if not any(test.values()):
    raise DataError(
      f'{root} leaves no {listing.kind.noun}s to test on; add some under {test_split!r} or raise '
      '--config.data.held_out_fraction'
    )
  return _files(train, class_names), _files(test, class_names), class_names


def _check_classes(
  root: pathlib.Path, train: dict[str, list[str]], test: dict[str, list[str]], noun: str
) -> None:
  only_test = sorted(set(test) - set(train))
  if only_test:
    raise DataError(
      f'{root} has test {noun}s but no training {noun}s of the class {only_test[0]!r} '
      f'({len(only_test)} such classes); add some or remove its test folder'
    )
  only_train = sorted(set(train) - set(test))
  if only_train:
    folder_layout.say_once(f'{root} has no test {noun}s of {len(only_train)} classes: {only_train}')


def _files(names: dict[str, list[str]], class_names: tuple[str, ...]) -> Files:
  pairs = [(name, label) for label, kind in enumerate(class_names) for name in names.get(kind, ())]
  return Files([name for name, _ in pairs], [label for _, label in pairs])


def _hold_out(
  classes: dict[str, list[str]], fraction: float
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
  """Splits every class; each keeps a training picture and, of two or more, gives one to test."""
  train, test = {}, {}
  for kind, names in classes.items():
    ranked = sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    count = min(len(names) - 1, max(1, round(fraction * len(names))))
    train[kind], test[kind] = sorted(ranked[count:]), sorted(ranked[:count])
  return train, test
