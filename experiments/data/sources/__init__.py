"""Where pictures come from: the embedded digits, a folder, a TFDS data set, random images.

Every source is a sequence with random access, so that a batch is a function of indices alone, and
can be pickled for the worker processes.
"""

import pathlib

from experiments.data.settings import DataSettings
from experiments.data.sources import folder, in_memory, packed_folder, tfds
from experiments.data.sources.source import Example, MachineError, ReadError, Source
from experiments.runtime.errors import DataError

__all__ = ['Example', 'MachineError', 'ReadError', 'Source', 'file_stats', 'open_sources']


def open_sources(settings: DataSettings) -> tuple[Source, Source]:
  """Opens the train and the test source.

  Raises:
    DataError: the source is unknown or what it needs is missing; see each source's function.
  """
  openers = {
    'digits': in_memory.digits,
    'folder': _folder,
    'synthetic': in_memory.synthetic,
    'tfds': tfds.open_splits,
  }
  if settings.source not in openers:
    raise DataError(f'unknown data.source {settings.source!r}; choose one of {tuple(openers)}')
  return openers[settings.source](settings)


def _folder(settings: DataSettings) -> tuple[Source, Source]:
  """A folder of files, or one that was packed: the pictures are the same ones."""
  place = packed_folder if packed_folder.is_packed(settings.dir) else folder
  return place.open_parts(settings)


def file_stats(settings: DataSettings) -> list[tuple[str, int, int]]:
  """Name, size and time of what the pictures are read from, where that is files of the user's."""
  paths = [pathlib.Path(settings.dir).expanduser()] if settings.dir else []
  if paths and paths[0].is_dir():
    paths += [
      source.root / name
      for source in open_sources(settings)
      if isinstance(source, folder.FolderSource)
      for name in source.files.names
    ]
  stats = [(path, path.stat()) for path in paths if path.is_file()]
  return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
