"""What several processes must agree on: process 0 decides, all compare.

Every function here must be called by all processes, in the same order; with one process it costs
nothing. Values travel as JSON through the coordination service, not through the devices, so that a
process that fails meanwhile ends the others (`failures`) instead of leaving them in a collective.
"""

import itertools
import json
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax._src import distributed  # the service's client has no public name
from jax.experimental import multihost_utils

from experiments.runtime.errors import ConfigError

_MILLISECONDS = 24 * 60 * 60 * 1000  # a process that is lost ends the wait earlier
_SECONDS_FOR_FILES = 5.0  # what a network file system may take to show a new file

_numbers = itertools.count()


def from_main(make: Callable[[], Any]) -> Any:
  """Calls `make` in process 0 and returns its value, of JSON's types, in all."""
  if jax.process_count() == 1:
    return make()
  client, key = distributed.global_state.client, f'nfnets/agreement/{next(_numbers)}'
  if jax.process_index() == 0:
    value = make()
    client.key_value_set(key, json.dumps(value))
    return value
  return json.loads(client.blocking_key_value_get(key, _MILLISECONDS))


def from_all(value: Any) -> list[Any]:
  """Returns the values of all processes, in their order; of JSON's types."""
  if jax.process_count() == 1:
    return [value]
  client, key = distributed.global_state.client, f'nfnets/agreement/{next(_numbers)}'
  client.key_value_set(f'{key}/{jax.process_index()}', json.dumps(value))
  texts = [
    client.blocking_key_value_get(f'{key}/{i}', _MILLISECONDS) for i in range(jax.process_count())
  ]
  return [json.loads(text) for text in texts]


def meet() -> None:
  """Waits until all are here, then has their devices connect.

  A process that comes to its first collective alone waits half a minute (Gloo) and fails, while
  another one may still be reading its checkpoint or compiling.
  """
  if jax.process_count() > 1:
    from_all(None)
    multihost_utils.sync_global_devices('met')


def require_same(values: Mapping[str, Any]) -> None:
  """Compares values, mappings and sequences of JSON's types within, with those of process 0.

  Raises:
    ConfigError: in every process, if they differ in one; names the first field that does.
  """
  if jax.process_count() == 1:
    return
  mine = _flat(values)
  main = from_main(lambda: mine)
  different = sorted(name for name in {*mine, *main} if mine.get(name) != main.get(name))
  found = [(name, main.get(name), mine.get(name)) for name in different[:1]]
  for process, differences in enumerate(from_all(found)):
    for name, in_main, there in differences:
      raise ConfigError(
        f'the processes differ in {name}: {_shown(in_main)} in process 0, {_shown(there)} in '
        f'process {process}: start all of them with the same command, code and data.'
      )


def require_shared(directory: pathlib.Path) -> None:
  """Checks that all processes see the same directory, which process 0 makes if it is missing.

  Raises:
    ConfigError: in every process, if one sees another.
  """
  if jax.process_count() == 1:
    return

  def leave() -> str:
    directory.mkdir(parents=True, exist_ok=True)
    name = f'.seen_by_all.{secrets.token_hex(8)}'
    (directory / name).touch()
    return name

  token = directory / from_main(leave)
  deadline = time.monotonic() + _SECONDS_FOR_FILES
  while not (seen := token.exists()) and time.monotonic() < deadline:
    time.sleep(0.2)
  blind = [i for i, sees in enumerate(from_all(seen)) if not sees]
  if jax.process_index() == 0:
    token.unlink()
  if blind:
    raise ConfigError(
      f'process {blind[0]} does not see the files that process 0 writes to {directory}: --workdir '
      'must be a directory that all hosts share, such as one on a network file system.'
    )


def _flat(value: Any, name: str = '') -> dict[str, str]:
  """'a.b[2]' -> the JSON of a value."""
  if isinstance(value, Mapping):
    parts = [(f'{name}.{key}' if name else str(key), entry) for key, entry in value.items()]
  elif isinstance(value, list | tuple):
    parts = [(f'{name}[{i}]', entry) for i, entry in enumerate(value)]
  else:
    return {name: json.dumps(value, default=str)}
  return {path: text for part, entry in parts for path, text in _flat(entry, part).items()}


def _shown(text: str | None) -> str:
  return 'nothing' if text is None else text[:80]
