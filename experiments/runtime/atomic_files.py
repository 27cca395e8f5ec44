"""Files that are replaced in one move, so that a reader never meets half of one."""

from collections.abc import Callable
from pathlib import Path

from nfnets.weights.atomic import replacing


def replace(path: Path, write: Callable[[Path], object]) -> Path:
  """Lets `write` fill a file beside path, then moves it there; returns path."""
  with replacing(path) as temporary:
    write(temporary)
  return path
