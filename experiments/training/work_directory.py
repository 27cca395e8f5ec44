"""The directory of a run: whether this run may go on there, by the config that lies in it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.runtime import atomic_files
from experiments.runtime.errors import CheckpointError

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
    'model.remat',
    'model.stem_space_to_depth',
  }
)


def claim(workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
  """Makes the directory this run's, or checks that it already is.

  Args:
    workdir: the directory.
    config: with every field filled in.

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
    changed = differences(existing, config)
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
  atomic_files.replace(path, lambda p: p.write_text(json.dumps(config, indent=2) + '\n'))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = '') -> list[str]:
  """Returns 'field: old -> new' for the fields in which two configs would compute differently."""
  found = []
  for key in sorted({*old, *new}):
    path = f'{prefix}{key}'
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, f'{path}.')
    elif path not in NEUTRAL_FIELDS and a != b:
      found.append(f'{path}: {a!r} -> {b!r}')
  return found
