"""Pictures that cannot be used: counted once each, over all hosts and all starts of a run."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging

from experiments.runtime.errors import DataError
from nfnets import picture_files

FILE_NAME = 'unreadable_pictures.{}.jsonl'  # of each host, in the work directory

# Of the pictures of a class: with more of them replaced by their neighbours it is not learnt.
_MOST_OF_A_CLASS = 2 / 3


class Unreadable(NamedTuple):
  """A picture that was met and could not be used."""

  name: str
  reason: str
  label: int | None = None  # None: not known without reading it
  gone: bool = False  # it was there when the run began


class Limits(NamedTuple):
  """How many pictures may be unreadable.

  Attributes:
    num_examples: of the set.
    share: of them that may be unreadable; of a class it may be two thirds.
    labels: of all of them, if classes count as well.
    class_names: of the labels.
    noun: what messages call one.
  """

  num_examples: int
  share: float
  labels: Sequence[int] | None = None
  class_names: tuple[str, ...] = ()
  noun: str = 'picture'


class UnreadablePictures:
  """What was met so far; ends the run when it is too much."""

  def __init__(self, limits: Limits, record: 'Record | None' = None):
    """Begins with none; a record takes and gives what other hosts and other starts met."""
    self._limits = limits
    self._record = record
    self.met: dict[str, Unreadable] = {}  # by this start of the run, of all hosts as far as known
    labels = [] if limits.labels is None else np.asarray(limits.labels)
    self._in_class = np.bincount(
      [label for label in labels if 0 <= label < len(limits.class_names)],
      minlength=len(limits.class_names),
    )

  def add(self, found: Iterable[Unreadable]) -> None:
    """Takes what a batch met, which may repeat.

    Raises:
      DataError: too many of all pictures or of a class are unreadable, or one is gone.
    """
    new = [one for one in dict.fromkeys(found) if one.name not in self.met]
    if not new:
      return
    for one in new:
      self.met[one.name] = one
      logging.warning(
        'cannot use the %s %s: %s',
        self._limits.noun,
        picture_files.printable(one.name),
        one.reason,
      )
    if self._record is not None:
      self._record.write(new)
      self.met |= {one.name: one for one in self._record.read(since_start=True)}
    self._check_all(new[-1])
    for one in new:
      if one.gone:
        raise DataError(
          f'the {self._limits.noun} {picture_files.printable(one.name)} cannot be opened any more '
          f'({one.reason}), and was there when the run began; put back what is missing'
        )
    self._check_classes()

  def _check_all(self, last: Unreadable) -> None:
    limits, count = self._limits, len(self.met)
    if count > limits.share * limits.num_examples or count == limits.num_examples:
      raise DataError(
        f'{count} of {limits.num_examples} {limits.noun}s are unreadable, the last being '
        f'{picture_files.printable(last.name)}; mend or remove them, or raise '
        '--config.data.max_corrupt_fraction'
      )

  def _check_classes(self) -> None:
    share = max(self._limits.share, _MOST_OF_A_CLASS)
    labels = [one.label for one in self.met.values() if one.label is not None]
    counts = np.bincount(labels, minlength=len(self._in_class))
    for label in np.flatnonzero(counts[: len(self._in_class)] > share * self._in_class):
      name = picture_files.printable(self._limits.class_names[label])
      last = [one.name for one in self.met.values() if one.label == label][-1]
      raise DataError(
        f'{counts[label]} of the {self._in_class[label]} {self._limits.noun}s of the class '
        f'{name!r} are unreadable, the last being {picture_files.printable(last)}; mend them, or '
        'remove the class'
      )

  def count(self) -> int:
    """How many pictures could not be used, over all hosts and all starts of the run."""
    earlier = () if self._record is None else self._record.read()
    return len(self.met.keys() | {one.name for one in earlier})


class Record:
  """The same in files of the work directory, one for each host; without such pictures none."""

  def __init__(self, workdir: pathlib.Path, process_index: int, process_count: int, new: bool):
    """Opens the record; `new`: the run starts from the beginning, so that nothing is left of it."""
    self._workdir = workdir
    self._path = workdir / FILE_NAME.format(process_index)
    if new:
      mine = [self._path]
      if process_index == 0:
        others = {workdir / FILE_NAME.format(i) for i in range(process_count)}
        mine += set(self._files()) - others
      for path in mine:
        path.unlink(missing_ok=True)
    self._sizes = {path: path.stat().st_size for path in self._files()}

  def _files(self) -> list[pathlib.Path]:
    return sorted(self._workdir.glob(FILE_NAME.format('*')))

  def write(self, found: Iterable[Unreadable]) -> None:
    """Appends to this host's file."""
    lines = b''.join(json.dumps(one._asdict()).encode() + b'\n' for one in found)
    self._workdir.mkdir(parents=True, exist_ok=True)
    with self._path.open('ab') as file:
      file.write(lines)
      file.flush()
      os.fsync(file.fileno())

  def read(self, since_start: bool = False) -> list[Unreadable]:
    """Returns what is there, of all hosts; half a line is left out."""
    found = []
    for path in self._files():
      with contextlib.suppress(OSError), path.open('rb') as file:
        file.seek(self._sizes.get(path, 0) if since_start else 0)
        for line in file:
          with contextlib.suppress(ValueError, TypeError):
            found.append(Unreadable(**json.loads(line)))
    return found
