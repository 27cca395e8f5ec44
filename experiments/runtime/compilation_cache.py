"""Keeps compiled programs on disk, so that the next run of the same one starts at once."""

import hashlib
import importlib.util
import os
import pathlib
import platform
import sys
import tempfile

import jax

from nfnets.weights import download

OFF = 'none'
MAX_BYTES = 4 * 2**30  # the programs that were used least recently are removed first


def enable(directory: str | os.PathLike | None = None) -> pathlib.Path | None:
  """Has JAX keep compiled programs from now on; call it before the first compilation.

  Programs of the CPU backend are machine code, which JAX would load on another processor with no
  more than a line in the log. So each kind of processor has a folder of its own.

  Args:
    directory: where to keep them. Empty or None: where JAX has been told to (its own variable
      JAX_COMPILATION_CACHE_DIR), else with this library's downloads, $NFNETS_CACHE or
      ~/.cache/nfnets. 'none': nowhere.

  Returns:
    The folder, or None if nothing is kept: where that is asked for; in a run of several processes
    without a directory, since one that finds a program must not wait for one that compiles it, so
    all need to see the same folder; and, with a warning, where the folder cannot be written.
  """
  directory = os.fspath(directory or '')
  if directory == OFF:
    jax.config.update('jax_enable_compilation_cache', False)
    return None
  if not directory:
    if jax.config.jax_compilation_cache_dir:
      return pathlib.Path(jax.config.jax_compilation_cache_dir)
    if jax.distributed.is_initialized():
      return None
  try:
    root = pathlib.Path(directory or download.cache_directory() / 'compiled').expanduser()
  except RuntimeError as error:  # there is no home
    folder, reason = pathlib.Path('~'), str(error)
  else:
    folder = root / processor_key()
    reason = _why_not(folder)
  if reason:
    print(f'Compiled programs are not kept in {folder}: {reason}.', file=sys.stderr, flush=True)
    return None
  jax.config.update('jax_compilation_cache_max_size', MAX_BYTES)
  jax.config.update('jax_compilation_cache_dir', str(folder))
  return folder


def processor_key() -> str:
  """Returns letters that differ between processors with different instructions."""
  parts = [platform.machine(), platform.processor()]
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
  except OSError:
    lines = []
  for field in ('model name', 'flags', 'Features', 'CPU implementer', 'CPU part'):
    parts += [line for line in lines if line.startswith(field)][:1]
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:16]


def _why_not(folder: pathlib.Path) -> str:
  """Why nothing can be kept there; empty if it can."""
  if importlib.util.find_spec('filelock') is None:  # JAX needs it to limit the size
    return 'the package filelock is missing'
  try:
    # Who can write there can have this user run anything.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    return error.strerror or str(error)
  return ''
