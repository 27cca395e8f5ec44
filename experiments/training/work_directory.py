"""The directory of a run: whether this run may go on there, by what it says of its owner.

`config.json` and `data.json` are written before the first checkpoint: until then there is nothing
to protect. `data_names.json.gz` is for examples in messages. `lock` is held while a run lasts.
"""

import contextlib
import dataclasses
import fcntl
import gzip
import json
import os
import pathlib
import socket
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from configs import base
from experiments import data
from experiments.data import DataSettings, Identity
from experiments.runtime import atomic_files, processes
from experiments.runtime.errors import CheckpointError

CONFIG_NAME = 'config.json'
DATA_NAME = 'data.json'
NAMES_NAME = 'data_names.json.gz'
LOCK_NAME = 'lock'

# Fields that change how a run is carried out but not what it computes; a resumed run may differ.
NEUTRAL_FIELDS = frozenset(
  {
    'compilation_cache',
    'keep_freed_memory',
    'log_every_steps',
    'evaluate_every_epochs',
    'checkpoint_every_steps',
    'keep_checkpoints',
    'on_nonfinite',
    'on_save_failure',
    'profile',
    'data.dir',
    'data.eval_batch_size',
    'data.max_corrupt_fraction',
    'data.num_threads',
    'data.num_workers',
    'data.space_to_depth',
    'model.minimal_filtering',
    'model.remat',
    'model.stem_space_to_depth',
    'optimizer.sam_timing',
    'optimizer.sharded_update',
  }
)


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
  """The directory of one run.

  Attributes:
    path: the directory, which need not exist.
    config: of the run, with every field filled in.
    settings: of its data.
    identity: of its data.
    by_size: fields of the config that the number of training pictures decided.
  """

  path: pathlib.Path
  config: Mapping[str, Any]
  settings: DataSettings
  identity: Identity
  by_size: frozenset[str] = frozenset()

  @contextlib.contextmanager
  def opened(self) -> Iterator[None]:
    """Keeps other runs out while the context lasts; nothing that is there is changed.

    Raises:
      CheckpointError: the directory belongs to a run of another config or on other data, or to
        something else, or another run is at work there.
    """
    self._check()
    with self._locked():
      self._check()  # the run that held the lock may have left something
      yield

  def claim(self) -> None:
    """Writes whose directory it is, unless it says so. For before the first checkpoint or result.

    Only within `opened`.
    """
    if not processes.is_main():
      return
    path = self.path / CONFIG_NAME
    known = path.exists()
    if known and (self.path / DATA_NAME).exists():
      return
    if known:
      processes.say(
        f'{self.path} does not say which data its run began with; from now on it belongs to '
        f'{self.settings.dir or self.settings.title}.'
      )
    self.path.mkdir(parents=True, exist_ok=True)
    names = gzip.compress(json.dumps(data.picture_names(self.settings)).encode())
    atomic_files.replace(self.path / NAMES_NAME, lambda p: p.write_bytes(names))
    _write_json(self.path / DATA_NAME, self.identity.to_json())
    if not known:
      _write_json(path, self.config)  # last: it is what makes the directory this run's

  def _check(self) -> None:
    if (self.path / CONFIG_NAME).exists():
      self._check_config()
      if (self.path / DATA_NAME).exists():
        self._check_data()
    elif _has_entries(self.path / 'checkpoints'):
      raise CheckpointError(
        f'{self.path} has checkpoints but no config.json, so it is not a run of this program: '
        'use another --workdir.'
      )

  def _check_config(self) -> None:
    # A field that is newer than the run says at its default what was done before.
    existing = read_config(self.path).to_dict()
    # Through JSON, as tuples become lists.
    changed = differences(*(json.loads(json.dumps(x)) for x in (existing, self.config)))
    if changed and self._follows_from_data(changed):
      self._check_data()  # which says what is behind it
    if changed:
      raise CheckpointError(
        f'{self.path} holds a run of another config ({"; ".join(changed[:5])}'
        f'{"; ..." if len(changed) > 5 else ""}): use another --workdir, or delete this one.'
      )

  def _follows_from_data(self, changed: list[str]) -> bool:
    """Whether the number of training pictures decided all fields that are another now."""
    fields = {phrase.partition(':')[0].removeprefix('--config.') for phrase in changed}
    in_spec = {field for field in fields if field.startswith('model.spec.')}
    open_ = self.by_size | (in_spec if 'model.variant' in self.by_size else set())
    sizes = ('image_size', 'eval_image_size', 'clip_seconds', 'mel_bands')
    derived = {'optimizer.clipping', *(f'data.{name}' for name in sizes)}
    return fields <= open_ | derived and (self.path / DATA_NAME).exists()

  def _check_data(self) -> None:
    path = self.path / DATA_NAME
    existing, new = _read_json(path), json.loads(json.dumps(self.identity.to_json()))
    if existing == new:
      return
    try:
      changed = data.differences(
        existing, new, self._old_names(), data.picture_names(self.settings)
      )
    except (AttributeError, KeyError, TypeError) as error:
      raise CheckpointError(
        f'{path} does not describe data ({error!r}): delete it to go on with the data that the '
        'config names, or use another --workdir.'
      ) from error
    raise CheckpointError(
      f'{self.path} holds a run on other data; these are {"; ".join(changed)}. Give the run the '
      'data that it began with, in whatever folder, or use another --workdir for a new run.'
    )

  def _old_names(self) -> dict[str, list[str]]:
    """The names of the pictures that the run began with; none if they cannot be read."""
    try:
      return dict(json.loads(gzip.decompress((self.path / NAMES_NAME).read_bytes())))
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
      return {}

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    """Holds the lock, in the main process: the kernel releases it whenever that process ends."""
    if not processes.is_main():
      yield
      return
    self.path.mkdir(parents=True, exist_ok=True)
    with (self.path / LOCK_NAME).open('a+', encoding='utf-8') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        owner = file.read(200).strip() or 'another process'
        raise CheckpointError(
          f'a run is at work in {self.path} ({owner}), and nothing of it was touched: wait for its '
          'end, or use another --workdir.'
        ) from None
      except OSError as error:  # a file system without locks
        logging.warning('%s cannot be locked against a second run: %s', self.path, error)
      else:
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        file.flush()
      yield


def read_config(path: pathlib.Path) -> ConfigDict:
  """Returns the config of the run in a directory, every field filled in.

  Raises:
    CheckpointError: it has none, or one that cannot be read.
  """
  if not (path / CONFIG_NAME).is_file():
    raise CheckpointError(f'{path} has no {CONFIG_NAME}, so it does not say what its data are.')
  config = base.get_config()  # with fields that the run did not know
  with config.unlocked(), config.ignore_type():
    config.update(_read_json(path / CONFIG_NAME))
  return config


def _has_entries(place: pathlib.Path) -> bool:
  return place.is_dir() and any(place.iterdir())


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  try:
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
      raise ValueError(f'{type(value).__name__} instead of an object')
    return value
  except ValueError as error:
    raise CheckpointError(
      f'{path} is not readable as JSON ({error}): use another --workdir, or delete this one.'
    ) from error


def _write_json(path: pathlib.Path, value: Mapping[str, Any]) -> None:
  atomic_files.replace(path, lambda p: p.write_text(json.dumps(value, indent=2) + '\n'))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = '') -> list[str]:
  """Returns '--config.field: old -> new' where two configs would compute differently."""
  found = []
  for key in sorted({*old, *new}):
    path = f'{prefix}{key}'
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, f'{path}.')
    elif path not in NEUTRAL_FIELDS and a != b:
      found.append(f'--config.{path}: {a!r} -> {b!r}')
  return found
