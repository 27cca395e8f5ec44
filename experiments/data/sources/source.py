"""What every source of pictures is: a sequence of labelled pictures with random access."""

import pathlib
from collections.abc import Iterable
from typing import Protocol, TypedDict

import numpy as np


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
  origin: str  # what a run may be resumed on: the kind, or a data set's full name and the split

  def labelled_names(self) -> Iterable[tuple[str, int]]:
    """Returns the name and label of every picture; none if `origin` and their number say all."""

  def paths(self) -> list[pathlib.Path]:
    """Returns the files that the pictures are read from."""

  def __len__(self) -> int:
    """Returns the number of pictures."""

  def __getitem__(self, index: int) -> Example:
    """Returns picture `index`; raises OSError or ReadError if it cannot be read."""
