"""Where pictures come from: the embedded digits, a folder, a TFDS data set, random images; sounds.

Every source is a sequence with random access, so that a batch is a function of indices alone, and
can be pickled for the worker processes.
"""

import contextlib
import contextvars
from collections.abc import Iterator

from experiments.data.settings import DataSettings
from experiments.data.sources import folder, in_memory, packed_folder, tfds
from experiments.data.sources.source import Example, MachineError, ReadError, Source
from experiments.runtime import local_paths
from experiments.runtime.errors import DataError
from nfnets import sound_files

__all__ = [
  'Example',
  'MachineError',
  'ReadError',
  'Source',
  'file_stats',
  'kept_open',
  'open_sources',
]

# What decides the two sources -> them, while `kept_open` lasts.
_FIELDS = (
  'source', 'name', 'dir', 'train_split', 'test_split', 'held_out_fraction', 'num_examples',
  'num_classes',
)  # fmt: skip
_kept: contextvars.ContextVar[dict | None] = contextvars.ContextVar('kept', default=None)


@contextlib.contextmanager
def kept_open() -> Iterator[None]:
  """Within it, data are opened, and folders listed, once: a run sees the same ones all along."""
  token = _kept.set({})
  try:
    yield
  finally:
    _kept.reset(token)


def open_sources(settings: DataSettings) -> tuple[Source, Source]:
  """Opens the train and the test source.

  Raises:
    DataError: what the source needs is missing; see each source's function.
  """
  kept = _kept.get()
  if kept is None:
    return OPENERS[settings.source](settings)
  key = [getattr(settings, name) for name in _FIELDS]
  key = (*key, settings.image_size if settings.source == 'synthetic' else None)
  if key not in kept:
    kept[key] = OPENERS[settings.source](settings)
  return kept[key]


def _folder(settings: DataSettings) -> tuple[Source, Source]:
  """A folder of files, or one that was packed: the pictures are the same ones."""
  local_paths.require(settings.dir, '--config.data.dir')
  place = packed_folder if packed_folder.is_packed(settings.dir) else folder
  return place.open_parts(settings)


def _audio_folder(settings: DataSettings) -> tuple[Source, Source]:
  """A folder of files of sounds, which their examples decode."""
  local_paths.require(settings.dir, '--config.data.dir')
  try:
    sound_files.require()
  except ImportError as error:
    raise DataError(str(error)) from None
  return folder.open_parts(settings, sound_files.SOUNDS)


OPENERS = {
  'audio_folder': _audio_folder,
  'digits': in_memory.digits,
  'folder': _folder,
  'synthetic': in_memory.synthetic,
  'tfds': tfds.open_splits,
}


def file_stats(settings: DataSettings) -> list[tuple[str, int, int]]:
  """Name, size in bytes and time in ns of the files that the pictures are read from."""
  paths = sorted({path for source in open_sources(settings) for path in source.paths()})
  stats = [(path, path.stat()) for path in paths]
  return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
