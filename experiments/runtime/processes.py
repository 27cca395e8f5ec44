"""Many hosts: one process each, the same command on all, found through `jax.distributed`.

On TPU pods and under Slurm: --coordinator=auto. Anywhere else, on every host:
--coordinator=HOST0:PORT --num_processes=N --process_id=I

Where HOST0 is localhost, all processes are on one host and share its NVIDIA GPUs out.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import jax
from absl import flags

from experiments.runtime import failures
from experiments.runtime.errors import ConfigError

_COORDINATOR = flags.DEFINE_string(
  'coordinator', None, "Address of process 0, 'host:port', or 'auto'. Default: one process."
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Number of processes in all.', 1)
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Number of this process, from 0.', 0)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  'heartbeat_timeout', 30, 'Seconds of silence after which a process counts as lost.', 1
)
_START_TIMEOUT = flags.DEFINE_integer(
  'start_timeout', 50, 'Seconds that the processes wait for each other when they start.', 1
)


@contextlib.contextmanager
def together(*, checkpoints: bool = True) -> Iterator[None]:
  """Joins the processes that the flags name, if any, and leaves them when all are done.

  An error that leaves the context in one process ends all of them with exit code 1: it is printed
  here, and not raised further. SystemExit is no error: all are to raise it, at the same place.

  Args:
    checkpoints: whether the program has any, so that the same command goes on from the last one.

  Raises:
    ConfigError: the flags are incomplete.
  """
  failures.promise(checkpoints)
  arguments = _arguments()
  if arguments is None:
    yield
    return
  exit_code = None
  try:
    _join(arguments)
    try:
      yield
    except SystemExit as error:
      exit_code = error.code
    failures.finish()
  except BaseException as error:
    failures.fail(error)
  if exit_code is not None:
    raise SystemExit(exit_code)


def _arguments() -> dict[str, Any] | None:
  """What the flags say, as `jax.distributed.initialize` takes it; None: there is one process."""
  if _COORDINATOR.value is None:
    if _NUM_PROCESSES.value is not None or _PROCESS_ID.value is not None:
      raise ConfigError('--num_processes and --process_id need --coordinator=host:port as well.')
    return None
  arguments = {
    'heartbeat_timeout_seconds': _HEARTBEAT_TIMEOUT.value,
    'initialization_timeout': _START_TIMEOUT.value,
  }
  if _COORDINATOR.value == 'auto':
    return arguments
  if _NUM_PROCESSES.value is None or _PROCESS_ID.value is None:
    raise ConfigError(
      '--coordinator=host:port needs --num_processes and --process_id as well (or say auto).'
    )
  return arguments | {
    'coordinator_address': _COORDINATOR.value,
    'num_processes': _NUM_PROCESSES.value,
    'process_id': _PROCESS_ID.value,
    'local_device_ids': _own_gpus(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value),
  }


def _own_gpus(coordinator: str, num_processes: int, process_id: int) -> list[int] | None:
  """This process's GPUs among those that it sees; None: all, or there are none.

  Only processes of one host can find each other at a loopback address.
  """
  if coordinator.rpartition(':')[0] not in ('localhost', '127.0.0.1', '[::1]'):
    return None
  if os.environ.get('JAX_LOCAL_DEVICE_IDS') or os.environ.get('JAX_PLATFORMS') in ('cpu', 'tpu'):
    return None  # its user chose
  count = _count_gpus()
  if not count or num_processes == 1:
    return None
  if count % num_processes:
    raise ConfigError(
      f'{num_processes} processes cannot share the {count} GPU(s) of this host evenly: choose '
      '--num_processes so that it divides their number, or name those to use in '
      'CUDA_VISIBLE_DEVICES, the same for all.'
    )
  share_of_one = count // num_processes
  return list(range(process_id * share_of_one, (process_id + 1) * share_of_one))


def _count_gpus() -> int:
  """The NVIDIA GPUs that a process sees, without starting JAX."""
  visible = os.environ.get('CUDA_VISIBLE_DEVICES')
  if visible is not None:
    return len([name for name in visible.split(',') if name.strip() not in ('', '-1')])
  try:
    said = subprocess.run(
      ['nvidia-smi', '--list-gpus'], capture_output=True, text=True, timeout=60, check=True
    ).stdout
  except (OSError, subprocess.SubprocessError):
    return 0
  return sum(line.startswith('GPU ') for line in said.splitlines())


def _join(arguments: dict[str, Any]) -> None:
  try:
    with failures.sentence_for_lost_service(_HEARTBEAT_TIMEOUT.value):
      jax.distributed.initialize(**arguments)
  except (RuntimeError, ValueError) as error:
    # Where the others do not come, jaxlib cannot hand the reason on and says std::bad_cast.
    reason = ' '.join(str(error).split())[:300].replace('std::bad_cast', 'nobody came')
    raise ConfigError(
      f'the processes did not find each other at --coordinator={_COORDINATOR.value} within '
      f'--start_timeout={_START_TIMEOUT.value} seconds ({reason}): start the same command on all '
      'hosts, with a port of process 0 that is free and that all can reach.'
    ) from error
  failures.watch(_HEARTBEAT_TIMEOUT.value)


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
