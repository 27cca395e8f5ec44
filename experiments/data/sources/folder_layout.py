"""Which sub-folders of an image folder are to train on and to test on, and which are classes."""

import functools
import pathlib
import unicodedata
from typing import Protocol

from absl import logging

from experiments.runtime.errors import DataError
from nfnets import picture_files

Classes = dict[str, list[str]]  # class -> its pictures, sorted

# What people call the parts of a data set, in small letters; the config's own name goes first.
_TRAIN_NAMES = ('train', 'training')
_TEST_NAMES = ('test', 'testing', 'val', 'valid', 'validation')


class Listing(Protocol):
  """The pictures of a folder, on a disk or packed."""

  root: pathlib.Path
  kind: picture_files.Kind

  def has(self, part: str) -> bool:
    """Whether there is a sub-folder of this name."""

  def folders(self) -> list[str]:
    """Returns the names of the sub-folders, sorted."""

  def classes(self, part: str) -> Classes:
    """Maps each class folder of a sub-folder ('': of the root) to its pictures, sorted.

    Pictures are paths relative to the root, with '/' between their parts.
    """


def divide(listing: Listing, train_split: str, test_split: str) -> tuple[Classes, Classes | None]:
  """Finds the classes and their pictures.

  Of a name that is not there, other usual ones are tried, in capitals or not: `training` for
  `train`; `val`, `valid`, `validation` and `testing` for `test`. A folder is a part of the data set
  only if it holds class folders, so that a class may be called `train`. Class names are in Unicode
  normal form C, as the same name can come in several.

  Args:
    listing: the folder.
    train_split: name of the sub-folder to train on.
    test_split: name of the sub-folder to test on.

  Returns:
    The pictures to train on and those to test on; None: there is no folder for these.

  Raises:
    DataError: a folder is missing, or it is unclear which one is meant; fewer than two classes.
  """
  root = listing.root
  train_part = _find(listing, train_split, _TRAIN_NAMES, '--config.data.train_split')
  test_part = _find(listing, test_split, _TEST_NAMES, '--config.data.test_split')
  train = listing.classes(train_part) if train_part else {}
  test = listing.classes(test_part) if test_part else {}
  if train_part and test_part and not train:
    raise DataError(
      f'{root} has the folders {train_part!r} and {test_part!r}, but {train_part!r} holds no class '
      f'folders with {listing.kind.noun}s; expected one folder per class there'
    )
  if not train:
    if test:
      raise DataError(
        f'{root} has a folder {test_part!r} but no {train_split!r}; add it, or set '
        '--config.data.train_split'
      )
    train_part, train, test_part = '', listing.classes(''), None
  if len(train) < 2:
    raise DataError(_too_few_classes(listing, train_part, train))
  if train_part:
    _report_parts(listing, train_part, test_part)
  return _normalized(root, train), None if test_part is None else _normalized(root, test)


def _find(listing: Listing, wanted: str, known: tuple[str, ...], field: str) -> str | None:
  """Returns the sub-folder that is meant by `wanted`; None if there is none."""
  if not wanted or listing.has(wanted):
    return wanted or None
  folders = listing.folders()
  if wanted.lower() not in known:
    raise DataError(
      f'{listing.root} has no folder {wanted!r}; set {field} to one of its folders: '
      f'{", ".join(map(repr, folders[:10]))}'
    )
  found = [name for name in folders if name.lower() in known]
  if len(found) > 1:
    raise DataError(
      f'{listing.root} has no folder {wanted!r} but {" and ".join(map(repr, found))}; set {field} '
      'to the one that is meant'
    )
  return found[0] if found else None


def _too_few_classes(listing: Listing, part: str, train: Classes) -> str:
  found = f'no class folders with {listing.kind.noun}s'
  if train:
    (kind,) = train
    found = f'only the class {kind!r}'
    inner = listing.classes(f'{part}/{kind}' if part else kind)
    if len(inner) > 1:
      return (
        f'{listing.root} holds {found}, but that folder holds {len(inner)} folders with '
        f'{listing.kind.noun}s; '
        f'give {listing.root / part / kind} instead if that is the one you mean'
      )
  return (
    f'{listing.root} holds {found}; expected at least two folders, one per class, with '
    f'{" ".join(listing.kind.endings)} files'
  )


def _report_parts(listing: Listing, train_part: str, test_part: str | None) -> None:
  used = f'trains on {train_part!r}'
  used += f' and tests on {test_part!r}' if test_part else ' and holds out a share of it'
  parts = (train_part, test_part)
  others = [name for name in listing.folders() if name not in parts]
  others = [
    repr(name) for name in others if not any((p or '').startswith(f'{name}/') for p in parts)
  ]
  unused = f'; not used: {", ".join(others)}' if others else ''
  if unused or parts != ('train', 'test'):
    say_once(f'{listing.root}: {used}{unused}')


def _normalized(root: pathlib.Path, classes: Classes) -> Classes:
  normalized: Classes = {}
  for kind, names in classes.items():
    normalized.setdefault(unicodedata.normalize('NFC', kind), []).extend(names)
  if len(normalized) < len(classes):
    say_once(f'{root}: class folders whose names look the same are one class')
  return {kind: sorted(names) for kind, names in normalized.items()}


@functools.lru_cache(maxsize=1000)
def say_once(message: str) -> None:
  """Logs a warning; a folder is listed several times in a run."""
  logging.warning('%s', message)
