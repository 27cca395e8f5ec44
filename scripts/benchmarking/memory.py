"""Resident memory of this process. Standard library only."""

import contextlib
import ctypes
import gc
import re
import resource
import sys


def _status(field: str) -> int | None:
  """Bytes of a field of Linux's /proc/self/status, None where there is none."""
  try:
    with open('/proc/self/status', encoding='ascii') as file:
      found = re.search(rf'{field}:\s+(\d+) kB', file.read())
  except OSError:
    return None
  return int(found[1]) * 1024 if found else None


def peak() -> int:
  """The largest resident size in bytes, since the last reset or else since the start."""
  value = _status('VmHWM')
  if value is None:
    value = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    value *= 1 if sys.platform == 'darwin' else 1024
  return value


def resident() -> int:
  """The resident size in bytes; where the system does not tell, its peak."""
  return _status('VmRSS') or peak()


def reset_peak() -> bool:
  """Gives freed memory back and forgets the peak. Returns whether it could be forgotten."""
  gc.collect()
  with contextlib.suppress(AttributeError, OSError):  # only glibc has it
    ctypes.CDLL(None).malloc_trim(0)  # what a compiler freed is not the program's need
  try:
    with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
      file.write('5')
  except OSError:
    return False
  return True
