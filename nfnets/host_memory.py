"""Keeps freed memory for the next call, as XLA's CPU backend allocates it again at every step."""

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
  it. The C library returns blocks of that size to the system, which must then clear every page
  again: for the gradient of F0 at batch 8 this takes a fifth of all processor time. If they are
  kept, the pages are cleared once. The process then stays at its peak size, and numpy and the input
  pipeline share one memory arena.

  Call it before JAX's first computation, whose threads otherwise have arenas of their own.
  `experiments.train` does so on a CPU unless `config.keep_freed_memory` is False. It changes no
  value and nothing but glibc's settings.

  Returns:
    Whether it took effect: only with glibc (Linux); otherwise nothing happens.
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
  """Whether JAX has a plug-in for an accelerator; the check starts no backend."""
  plugins = importlib.metadata.entry_points(group='jax_plugins')
  return bool(plugins) or importlib.util.find_spec('libtpu') is not None
