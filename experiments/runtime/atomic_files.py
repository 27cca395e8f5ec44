"""Files that are replaced in one move, so that a reader never meets half of one."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from nfnets import interruption


def replace(path: Path, write: Callable[[Path], object]) -> Path:
  """Lets `write` fill a file beside path, then moves it there; returns path."""
  # Process numbers repeat on other hosts, and in containers on this one.
  temporary = path.with_name(f'.{path.name}.{os.getpid()}.{secrets.token_hex(4)}')
  with interruption.undone(lambda: temporary.unlink(missing_ok=True)):
    try:
      write(temporary)
      os.replace(temporary, path)
    finally:
      temporary.unlink(missing_ok=True)
  return path
