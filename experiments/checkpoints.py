"""Saving and restoring a train state with Orbax: atomic, checked, independent of the devices.

A work directory holds `config.json` (what the run computes) and `checkpoints/<step>/`.
"""

import json
import os
import pathlib
import zlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from experiments import settings
from experiments.errors import CheckpointError
from experiments.steps import TrainState


def claim_workdir(workdir: pathlib.Path, config: dict[str, Any]) -> None:
  """Makes the directory this run's, or checks that it already is.

  Raises:
    CheckpointError: it belongs to a run of another config, or to something else.
  """
  path = workdir / 'config.json'
  config = json.loads(json.dumps(config))  # tuples become lists, as they come back from the file
  if path.exists():
    try:
      existing = json.loads(path.read_text())
    except ValueError as error:
      raise CheckpointError(
        f'{path} is not readable as JSON ({error}): use another --workdir, or delete this one.'
      ) from error
    changed = settings.differences(existing, config)
    if changed:
      raise CheckpointError(
        f'{workdir} holds a run of another config ({"; ".join(changed[:5])}'
        f'{"; ..." if len(changed) > 5 else ""}): use another --workdir, or delete this one.'
      )
    return
  if (workdir / 'checkpoints').exists():
    raise CheckpointError(
      f'{workdir} has checkpoints but no config.json, so it is not a run of this program: '
      'use another --workdir.'
    )
  workdir.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.json.tmp')
  temporary.write_text(json.dumps(config, indent=2) + '\n')
  os.replace(temporary, path)


class Checkpointer:
  """Keeps the newest states of a run. A context manager: leaving it finishes pending writes."""

  def __init__(self, workdir: pathlib.Path, keep: int):
    """Opens `workdir`/checkpoints, keeping the newest `keep` states."""
    self._directory = (workdir / 'checkpoints').absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    self._manager = ocp.CheckpointManager(self._directory, options=options)

  def __enter__(self) -> 'Checkpointer':
    """Returns itself."""
    return self

  def __exit__(self, *exc_info) -> None:
    """Waits for pending writes."""
    self._manager.close()

  def save(self, state: TrainState) -> None:
    """Writes the state in the background; a step that is already there is left alone."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    items = ocp.args.Composite(
      state=ocp.args.StandardSave(_as_dict(state)), checksums=ocp.args.JsonSave(_checksums(state))
    )
    self._manager.save(step, args=items)
    if jax.default_backend() == 'cpu':
      # The writer reads the very buffers that the next step is given to overwrite.
      self._manager.wait_until_finished()

  def restore(self, like: TrainState) -> TrainState | None:
    """Returns the newest readable state, placed as `like` is, or None when there is none.

    Raises:
      CheckpointError: there are checkpoints, and none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    failures = []
    for step in steps:
      try:
        state = self._restore_step(step, like)
      except Exception as error:  # Orbax raises many kinds for damaged files
        failures.append((step, f'{type(error).__name__}: {error}'.splitlines()[0][:300]))
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

  def _restore_step(self, step: int, like: TrainState) -> TrainState:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(like))
    items = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), checksums=ocp.args.JsonRestore()
    )
    restored = self._manager.restore(step, args=items)
    state = TrainState(**restored['state'])
    damaged = [k for k, v in _checksums(state).items() if restored['checksums'].get(k) != v]
    if damaged:
      raise ValueError(f'the contents of {damaged[0]} differ from what was saved')
    return state

  def _set_aside(self, failures: list[tuple[int, str]]) -> None:
    """Moves damaged checkpoints away, so that their steps can be saved again."""
    for step, _ in failures:
      target = self._directory.parent / 'damaged_checkpoints'
      target.mkdir(exist_ok=True)
      os.replace(self._directory / str(step), target / f'{step}-{len(list(target.iterdir()))}')
      logging.warning('Moved the damaged checkpoint of step %d to %s.', step, target)
    if failures:
      self._manager.reload()


def _as_dict(state: TrainState) -> dict[str, Any]:
  """Orbax keeps empty subtrees of dictionaries, not those of named tuples."""
  return state._asdict()


def _checksums(state: TrainState) -> dict[str, int]:
  """CRC-32 of each array's bytes, by path."""
  return {
    jax.tree_util.keystr(path): zlib.crc32(np.ascontiguousarray(leaf.addressable_data(0)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state._asdict())
  }
