"""Many hosts: one process each, the same command on all, found through `jax.distributed`.

On TPU pods and under Slurm: --coordinator=auto. Anywhere else, on every host:
--coordinator=HOST0:PORT --num_processes=N --process_id=I
"""

import os
import sys

import jax
from absl import flags

from experiments.runtime.errors import ConfigError

_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "Address of process 0, 'host:port', or 'auto'. Default: one process."
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes in all.')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.')
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout', 30, 'Seconds of silence after which a process counts as lost.'
)


def initialize() -> None:
  """Joins the processes that the flags name; returns at once when they name none.

  Raises:
    ConfigError: the flags are incomplete, or the others did not come.
  """
  if _COORDINATOR.value is None:
    if _NUM_PROCESSES.value is not None or _PROCESS_ID.value is not None:
      raise ConfigError('--num_processes and --process_id need --coordinator=host:port as well.')
    return
  arguments = {'heartbeat_timeout_seconds': _HEARTBEAT_TIMEOUT.value}
  if _COORDINATOR.value != 'auto':
    if _NUM_PROCESSES.value is None or _PROCESS_ID.value is None:
      raise ConfigError(
        '--coordinator=host:port needs --num_processes and --process_id as well (or say auto).'
      )
    arguments |= {
      'coordinator_address': _COORDINATOR.value,
      'num_processes': _NUM_PROCESSES.value,
      'process_id': _PROCESS_ID.value,
    }
  try:
    jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    raise ConfigError(
      f'The processes did not find each other at --coordinator={_COORDINATOR.value}: '
      f'{" ".join(str(error).split())[:300]}'
    ) from error


def is_main() -> bool:
  """Whether this process prints and writes files."""
  return jax.process_index() == 0


def share() -> dict[str, int]:
  """This process's share of every batch, as `experiments.data` takes it."""
  return {
    'num_devices': jax.local_device_count(),
    'process_index': jax.process_index(),
    'process_count': jax.process_count(),
  }


def say(line: str) -> None:
  """Prints a line from the main process alone."""
  if is_main():
    print(line, flush=True)


def means_lost_process(error: Exception) -> bool:
  """Whether an error is how a collective fails when another process is gone."""
  if jax.process_count() == 1:
    return False
  # On CPU the collectives are Gloo's, whose errors come as ValueError.
  return isinstance(error, jax.errors.JaxRuntimeError) or 'Gloo' in str(error)


def die_of_lost_process(error: Exception) -> None:
  """Ends this process at once: with a partner gone, an orderly end would wait for it for ever."""
  print(
    f'Error: process {jax.process_index()} of {jax.process_count()} stops because another one was '
    'lost: start the same command on all of them again; it goes on from the last checkpoint. '
    f'({" ".join(str(error).split())[:200]})',
    file=sys.stderr,
    flush=True,
  )
  os._exit(1)
