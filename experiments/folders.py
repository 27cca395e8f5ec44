"""Finds the pictures of an image folder, their classes and their split."""

import hashlib
import os
import pathlib
from typing import NamedTuple

from absl import logging

from experiments.errors import DataError

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp')


class Files(NamedTuple):
  """Labelled picture files."""

  root: pathlib.Path
  names: list[str]  # paths relative to root, sorted within each class
  labels: list[int]


def scan(
  root: str, train_split: str, test_split: str, held_out_fraction: float
) -> tuple[Files, Files, tuple[str, ...]]:
  """Lists an image folder.

  Layouts: root/<train_split>/<class>/... with root/<test_split>/<class>/...; without the test
  folder, or with root/<class>/... alone, a share of every class is held out, chosen by a hash of
  the relative path, so the same on every machine. Files below a class folder count at any depth;
  hidden ones do not. Symbolic links that lead out of root are left out with a warning.

  Args:
    root: the folder.
    train_split: name of the sub-folder with the pictures to train on.
    test_split: name of the sub-folder with the pictures to test on.
    held_out_fraction: share of each class kept for the test where there is no test folder.

  Returns:
    The train files, the test files and the class names in the order of the labels.

  Raises:
    DataError: the folder is missing or has no pictures, fewer than two classes, a class without
      training pictures, nothing left to test on, or a fraction outside 0..1.
  """
  place = pathlib.Path(root).expanduser()
  if not root or not place.is_dir():
    raise DataError(f'the image folder {root!r} does not exist; set data.dir to an existing folder')
  train_place, test_place = place / train_split, place / test_split
  if test_place.is_dir() and not train_place.is_dir():
    raise DataError(
      f'{root} has a folder {test_split!r} but no {train_split!r}; add it, or set data.train_split'
    )
  train = _classes(place, train_place if train_place.is_dir() else place)
  if len(train) < 2:
    found = f'only the class {next(iter(train))!r}' if train else 'no class folders with pictures'
    raise DataError(
      f'{root} holds {found}; expected at least two folders, one per class, with '
      f'{" ".join(EXTENSIONS)} files'
    )
  class_names = tuple(sorted(train))
  if test_place.is_dir():
    test = _classes(place, test_place)
    _check_classes(root, train, test)
  else:
    train, test = _hold_out(train, held_out_fraction)
  if not any(test.values()):
    raise DataError(
      f'{root} leaves no pictures to test on; add some under {test_split!r} or raise '
      'data.held_out_fraction'
    )
  return _files(place, train, class_names), _files(place, test, class_names), class_names


def _check_classes(root: str, train: dict[str, list[str]], test: dict[str, list[str]]) -> None:
  only_test = sorted(set(test) - set(train))
  if only_test:
    raise DataError(
      f'{root} has test pictures but no training pictures of the class {only_test[0]!r} '
      f'({len(only_test)} such classes); add some or remove its test folder'
    )
  only_train = sorted(set(train) - set(test))
  if only_train:
    logging.warning('%s has no test pictures of %d classes: %s', root, len(only_train), only_train)


def _files(root: pathlib.Path, names: dict[str, list[str]], class_names: tuple[str, ...]) -> Files:
  pairs = [(name, label) for label, kind in enumerate(class_names) for name in names.get(kind, ())]
  return Files(root, [name for name, _ in pairs], [label for _, label in pairs])


def _classes(root: pathlib.Path, place: pathlib.Path) -> dict[str, list[str]]:
  """Maps each class folder of `place` that holds pictures to their paths relative to `root`."""
  inside = root.resolve()
  prefix = os.path.join(root, '')
  classes = {}
  for entry in _entries(place, inside):
    if entry.is_dir():
      names = sorted(path.removeprefix(prefix) for path in _pictures(entry.path, inside))
      if names:
        classes[entry.name] = names
      else:
        logging.warning('%s holds no pictures and is left out', entry.path)
  return classes


def _pictures(place: str, inside: pathlib.Path):
  for entry in _entries(place, inside):
    # A linked folder is not entered, so that no loop of links can trap the walk.
    if entry.is_dir(follow_symlinks=False):
      yield from _pictures(entry.path, inside)
    elif entry.name.lower().endswith(EXTENSIONS) and entry.is_file():
      yield entry.path


def _entries(place: str | pathlib.Path, inside: pathlib.Path):
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
