"""What every source of pictures is: a sequence of labelled pictures with random access."""

import errno
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol, TypedDict

import numpy as np

from experiments.runtime.errors import DataError

# What a picture cannot be blamed for: the machine, its disks, its network.
_ERRORS_OF_THE_MACHINE = tuple(
  getattr(errno, name)
  for name in (
    'EMFILE', 'ENFILE', 'EIO', 'ESTALE', 'ENOSPC', 'EDQUOT', 'ENOMEM', 'EREMOTEIO', 'ETIMEDOUT',
    'ENOTCONN', 'EHOSTDOWN', 'EHOSTUNREACH', 'ENETDOWN', 'ENETUNREACH', 'ECONNRESET', 'ENODEV',
    'ENOLINK',
  )
  if hasattr(errno, name)
)  # fmt: skip


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


class MachineError(DataError):
  """A picture cannot be read now, and it is not the picture's fault: the run cannot go on."""


def blame_machine(error: BaseException, name: str) -> None:
  """Raises MachineError if an error in reading a picture is one of the machine.

  Libraries in C++ give the system's message in one of theirs, so that text counts as well.
  """
  if isinstance(error, MemoryError):
    found = errno.ENOMEM
  elif isinstance(error, OSError) and error.errno is not None:
    found = error.errno if error.errno in _ERRORS_OF_THE_MACHINE else None
  else:
    text = str(error)
    found = next((n for n in _ERRORS_OF_THE_MACHINE if os.strerror(n) in text), None)
  if found is not None:
    help_ = ' Raise the limit of open files (ulimit -n).' if found == errno.EMFILE else ''
    raise MachineError(
      f'{name} cannot be read: {os.strerror(found)}. That is not the fault of the picture, so the '
      f'run ends; the same command goes on once the machine is in order.{help_}'
    ) from None


class Source(Protocol):
  """A sequence of labelled pictures."""

  class_names: tuple[str, ...]
  labels: Sequence[int] | None  # of all of them; None: not known without reading them
  origin: str  # what a run may be resumed on: the kind, or a data set's full name and the split

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    """Returns the name and label of every picture; none if `origin` and their number say all."""

  def paths(self) -> list[pathlib.Path]:
    """Returns the files that the pictures are read from."""

  def __len__(self) -> int:
    """Returns the number of pictures."""

  def __getitem__(self, index: int) -> Example:
    """Returns picture `index`; raises OSError or ReadError if it cannot be read, and
    MachineError if that is not its fault.
    """
