"""Freed memory, kept for the next call: XLA's CPU backend asks for it anew at every step."""

import ctypes
import importlib.metadata
import importlib.util
import sys

# From glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = -1


def keep_freed_memory() -> bool:
  """Makes this process keep the memory that it frees, until it ends.

  A compiled function on a CPU allocates all its temporary arrays at each call and frees them after
  it. The C library gives blocks of that size back to the system, which has to clear every page of
  them again: for the gradient of F0 at batch 8 a fifth of all processor time. Kept, the pages are
  cleared once. The process then stays as large as it was at its largest, and numpy and the input
  pipeline share one arena of memory.

  Call it before JAX's first computation, whose threads otherwise have arenas of their own.
  `experiments.train` does so on a CPU unless `config.keep_freed_memory` is False. It changes no
  value and nothing but glibc's settings.

  Returns:
    Whether it took effect: only with glibc (Linux), else nothing happens.
  """
  if not sys.platform.startswith('linux'):
    return False
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError):  # another C library
    return False
  # One arena: the others cannot hold a large block, and would map and unmap it as before.
  settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, 64 << 20))
  return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings])


def accelerator_is_installed() -> bool:
  """Whether JAX has a plug-in for something else than the CPU; asking starts no backend."""
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return bool(plugins) or importlib.util.find_spec('libtpu') is not None
