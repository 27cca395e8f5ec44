"""Files that a program is going to write: checked before its work, so that none is for nothing."""

import os
import pathlib
from collections.abc import Collection, Iterable

from experiments.runtime import local_paths
from experiments.runtime.errors import ConfigError


def require(
  path: str | os.PathLike,
  what: str,
  *,
  suffixes: Collection[str] = (),
  inputs: Iterable[str | os.PathLike | None] = (),
  make_folder: bool = False,
) -> pathlib.Path:
  """Returns the path of a file that can be written.

  Args:
    path: as a user gave it.
    what: the argument that it came from, such as '--out'.
    suffixes: the ends that its name may have, in small letters: ('.png',). Empty: any.
    inputs: what else the program reads or writes, for `refuse_overwrite`.
    make_folder: makes the folder that it is in, if there is none.

  Raises:
    ConfigError: it has another suffix; its folder does not exist or cannot be written; it is a
      folder itself; the program needs what is there.
  """
  file = local_paths.require(os.fspath(path), what)
  if suffixes and file.suffix.lower() not in suffixes:
    *first, last = suffixes
    allowed = f'{", ".join(first)} or {last}' if first else last
    raise ConfigError(f'{what} must end in {allowed}, got {file}')
  if file.is_dir():
    raise ConfigError(f'{what}={file} is a folder: give the name of a file in it')
  refuse_overwrite(file, what, inputs)
  if make_folder:
    file.parent.mkdir(parents=True, exist_ok=True)
  if not file.parent.is_dir():
    raise ConfigError(
      f'there is no folder {file.parent} to write {file.name} to: make it, or choose another place'
    )
  if not os.access(file.parent, os.W_OK):
    raise ConfigError(f'{file} cannot be written: {file.parent} is write-protected for this user')
  return file


def refuse_overwrite(
  path: str | os.PathLike, what: str, inputs: Iterable[str | os.PathLike | None]
) -> None:
  """Raises ConfigError if a program would write over what it reads, or twice to one place.

  Args:
    path: what it writes.
    what: the argument that it came from.
    inputs: paths of the rest; names that are no paths, and None, are none of them.
  """
  place = os.path.realpath(path)
  for other in inputs:
    if other is None:
      continue
    same = os.path.realpath(other) == place
    if same or (os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)):
      raise ConfigError(
        f'{what}={os.fspath(path)} would write over {os.fspath(other)}, which this command needs '
        'as well: choose another name'
      )
