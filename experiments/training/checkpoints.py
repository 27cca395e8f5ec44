"""Saving and restoring a train state with Orbax: atomic, checked, independent of the devices.

They lie in `checkpoints/<step>/` of a work directory. Of several processes the first writes, and
chooses what all of them read.
"""

import concurrent.futures
import contextlib
import errno
import os
import pathlib
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from experiments.runtime import agreement, processes
from experiments.runtime.errors import CheckpointError
from experiments.training.steps import TrainState
from experiments.training.update_sharding import REPLICATED, UpdateSharding

_FILES_OF_A_CHECKPOINT = 2**20  # bytes of Orbax's own files and of partly filled blocks


class Checkpointer:
  """Keeps the newest states of a run. A context manager: leaving it finishes pending writes."""

  def __init__(
    self,
    workdir: pathlib.Path,
    keep: int,
    on_failure: str = 'stop',
    sharding: UpdateSharding = REPLICATED,
  ):
    """Opens `workdir`/checkpoints.

    Args:
      workdir: the run's directory.
      keep: number of newest states that are kept.
      on_failure: what a state that cannot be written does to the run, 'stop' or 'continue'. The
        states before it are kept either way.
      sharding: what of a state each device has. What is written is whole.
    """
    self._directory = (workdir / 'checkpoints').absolute()
    self._keep = keep
    self._on_failure = on_failure
    self._sharding = sharding
    self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')
    self._open()

  def _open(self) -> None:
    """Opens the directory for this process alone: Orbax is not to wait for the others.

    A failure to write would otherwise leave them in one of its barriers.
    """
    writes = {}
    if processes.is_main():
      self._directory.mkdir(parents=True, exist_ok=True)
      writes = {'max_to_keep': self._keep, 'cleanup_tmp_directories': True}
    process = jax.process_index()
    options = ocp.CheckpointManagerOptions(
      create=False,
      read_only=not writes,
      multiprocessing_options=ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f'process_{process}',
      ),
      **writes,
    )
    # Named, so that what a state holds can be asked before it is read.
    handlers = {'state': ocp.StandardCheckpointHandler(), 'checksums': ocp.JsonCheckpointHandler()}
    self._manager = ocp.CheckpointManager(self._directory, options=options, item_handlers=handlers)
    self._pending: int | None = None
    self._writing: concurrent.futures.Future | None = None

  def __enter__(self) -> Self:
    """Returns itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Waits for pending writes."""
    try:
      self.wait()
    finally:
      self._thread.shutdown()
      self._manager.close()

  def wait(self) -> None:
    """Waits until the last state is written.

    Raises:
      CheckpointError: it could not be written, and `on_failure` is 'stop'.
    """
    try:
      if self._writing is not None:
        self._writing.result()
      self._manager.wait_until_finished()
    except Exception as error:  # whatever the writing thread met
      self._give_up(self._pending, error)
    self._pending = self._writing = None

  def whence(self) -> str:
    """Says where the same command goes on, by what lies in the directory at this moment."""
    complete = [int(path.name) for path in self._directory.glob('*') if path.name.isdigit()]
    if not complete:
      return 'There is no checkpoint yet: the same command starts from the beginning.'
    return f'The same command goes on from step {max(complete)}.'

  def save(self, state: TrainState) -> None:
    """Writes the state in the background; a step that is already there is left alone.

    All processes must call it. It returns when the state is copied to the host: the next step is
    given the state's own buffers to overwrite.

    Raises:
      CheckpointError: this or the last state cannot be written, and `on_failure` is 'stop'.
    """
    copy = self._sharding.fetch(state)
    if copy is None:
      return
    self.wait()
    step = int(copy.step)
    if step in self._manager.all_steps():
      return
    self._pending = step
    try:
      self._check_room(_as_dict(copy))
    except Exception as error:  # a full disk, a directory that cannot be seen, ...
      self._give_up(step, error)
      return
    self._writing = self._thread.submit(self._write, step, _as_dict(copy))

  def _write(self, step: int, state: dict[str, Any]) -> None:
    """Writes a state that is on the host, in a thread of its own."""
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(state), checksums=ocp.args.JsonSave(_checksums(state))
    )
    self._manager.save(step, args=items)

  def _check_room(self, state: dict[str, Any]) -> None:
    """Finds a full disk before Orbax does, whose many threads would each report it."""
    needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _FILES_OF_A_CHECKPOINT
    free = shutil.disk_usage(self._directory).free
    if free < needed:
      raise OSError(
        errno.ENOSPC, f'it needs about {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free'
      )

  def _give_up(self, step: int | None, error: Exception) -> None:
    """Removes what was written of a state, and goes on or stops."""
    with contextlib.suppress(Exception):
      self._manager.close()
    self._open()  # removes the unfinished directory
    kept = self._manager.latest_step()
    sentence = (
      f'The checkpoint of step {step} could not be written to {self._directory} '
      f'({_reason(error)}); '
      + (f'that of step {kept} is kept.' if kept is not None else 'there is no earlier one.')
    )
    if self._on_failure == 'stop':
      raise CheckpointError(
        f'{sentence} Make room and give the same command again, or go on without '
        '(--config.on_save_failure=continue).'
      ) from error
    logging.warning('%s The run goes on.', sentence)

  def restore(self, like: TrainState) -> TrainState | None:
    """Returns the newest readable state as numpy arrays, or None when there is none.

    All processes must call it: they read the state that the first one found readable.

    Args:
      like: a state of the same structure, shapes and dtypes.

    Raises:
      CheckpointError: there are checkpoints, and none can be read, or the newest is of another
        network.
    """
    state: TrainState | None = None

    def find() -> int | None:
      nonlocal state
      state = self._newest_readable(like)
      return None if state is None else int(state.step)

    step = agreement.from_main(find)
    if step is None or processes.is_main():
      return state
    try:
      return self._restore_step(step, like)
    except Exception as error:  # as in `_newest_readable`
      raise CheckpointError(
        f'The checkpoint of step {step} in {self._directory} can be read by process 0 but not here '
        f'({_reason(error)}): check the storage that the hosts share, then start all again.'
      ) from error

  def _newest_readable(self, like: TrainState) -> TrainState | None:
    """Finds it, and moves the damaged ones after it aside."""
    steps = sorted(self._manager.all_steps(), reverse=True)
    failures = []
    for step in steps:
      try:
        with _quiet_standard_error():
          self._check_shapes(step, like)
          state = self._restore_step(step, like)
      except CheckpointError:  # all others are of that network, too
        raise
      except Exception as error:  # Orbax raises many kinds for damaged files
        failures.append((step, _reason(error)))
        logging.warning('Checkpoint %s/%d is damaged: %s', self._directory, *failures[-1])
        continue
      self._set_aside(failures)
      return state
    if failures:
      raise CheckpointError(
        f'No checkpoint in {self._directory} can be read (the newest, step {failures[0][0]}: '
        f'{failures[0][1]}): use another --workdir, or delete this one to start again.'
      )
    return None

  def _check_shapes(self, step: int, like: TrainState) -> None:
    """Compares a state's arrays with those of the run, before Orbax does in its own words.

    Raises:
      CheckpointError: it is of another network or optimiser.
    """
    saved = self._manager.item_metadata(step)['state']
    if saved is None:  # damaged: reading it says how
      return
    old, new = (
      {jax.tree_util.keystr(path, simple=True, separator='/'): tuple(x.shape) for path, x in leaves}
      for leaves in map(
        jax.tree_util.tree_leaves_with_path, (getattr(saved, 'tree', saved), _as_dict(like))
      )
    )
    for path in sorted({*old, *new}):
      if old.get(path) != new.get(path):
        raise CheckpointError(
          f'The checkpoint {self._directory}/{step} is of another network: {path} has the shape '
          f'{old.get(path, "(none)")} there and {new.get(path, "(none)")} in this run. Use another '
          '--workdir, or the config, the data and the version of this program that it began with.'
        )

  def _restore_step(self, step: int, like: TrainState) -> TrainState:
    # Numpy arrays stand for the state: how many devices and hosts it came from does not matter.
    target = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), _as_dict(like))
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(target), checksums=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    damaged = [
      key
      for key, checksum in _checksums(restored['state']).items()
      if restored['checksums'].get(key) != checksum
    ]
    if damaged:
      raise ValueError(f'the contents of {damaged[0]} differ from what was saved')
    inside = int(restored['state']['step'])
    if inside != step:
      raise ValueError(f'it holds the state of step {inside}')
    return TrainState(**restored['state'])

  def _set_aside(self, failures: list[tuple[int, str]]) -> None:
    """Moves damaged checkpoints away, so that their steps can be saved again."""
    for step, _ in failures:
      target = self._directory.parent / 'damaged_checkpoints'
      target.mkdir(exist_ok=True)
      os.replace(self._directory / str(step), target / f'{step}-{len(list(target.iterdir()))}')
      logging.warning('Moved the damaged checkpoint of step %d to %s.', step, target)
    if failures:
      self._manager.reload()


@contextlib.contextmanager
def _quiet_standard_error() -> Iterator[None]:
  """Drops what is written to standard error, unless the log is verbose (--debug).

  When one of the many reads of a damaged checkpoint fails, TensorStore's threads print a traceback
  for each of the others; they pass through no logger and no hook of Python.
  """
  if logging.get_verbosity() >= logging.INFO:
    yield
    return
  sys.stderr.flush()
  saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    yield
  except Exception:
    time.sleep(0.5)  # until the last of those threads has printed
    raise
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)


def _reason(error: BaseException) -> str:
  """The innermost cause in a line."""
  while error.__cause__ is not None:
    error = error.__cause__
  text = ' '.join(str(error).split())
  # TensorStore appends where in its own source the error came from.
  return f'{type(error).__name__}: {text.split(" [source locations")[0][:300]}'


def _as_dict(state: TrainState) -> dict[str, Any]:
  """The parts of a state by name; only a private run's has a secret."""
  return {name: part for name, part in state._asdict().items() if name != 'secret' or part}


def _checksums(state: dict[str, Any]) -> dict[str, int]:
  """CRC-32 of each array's bytes, by path."""
  return {
    jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }
