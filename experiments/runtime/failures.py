"""When one of several processes fails or is lost, all end: soon, each with a sentence, exit code 1.

The process that fails says why in the coordination service of `jax.distributed`, where a thread of
each of the others looks every second. A process that is killed says nothing; the service misses its
heartbeats, and if it held the service, the connection breaks.
"""

import contextlib
import ctypes
import functools
import json
import multiprocessing
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax
from absl import flags
from jax._src import distributed  # the service's client has no public name

_FAILURE = 'nfnets/failure'  # what failed first, as [process, sentence] under the key `first`
_ENDING = 'nfnets/ending'  # who knows of it
_FINISHED = 'nfnets/finished'
_LOST = 'another one was lost: start the same command on all of them again'
# In messages of XLA: its codes for others that do not answer, and the libraries of collectives.
_OF_CONNECTIONS = re.compile('Gloo|NCCL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED')
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_FOR_NEWS = 5.0  # how long the end of a process may wait for what the service says
_DAY = 24 * 60 * 60

_resumption = ''  # what `promise` makes it
_one_ends = threading.Lock()
_standard_error = os.dup(2)  # what Python calls so may point elsewhere when the end comes
_all_finished = threading.Event()


def promise(checkpoints: bool) -> None:
  """Says of what the same command begins again: of the last checkpoint, where there are some."""
  global _resumption
  _resumption = '; it goes on from the last checkpoint' if checkpoints else ''


def watch(heartbeat_timeout: float) -> None:
  """Has this process end as soon as another one fails, from now on; it must have joined them."""
  arguments = (distributed.global_state.client, heartbeat_timeout)
  threading.Thread(target=_watch, args=arguments, name='watch', daemon=True).start()


def _watch(client: Any, heartbeat_timeout: float) -> None:
  heard = time.monotonic()
  while not _all_finished.wait(_SECONDS_BETWEEN_LOOKS):
    try:
      failure = client.key_value_dir_get(_FAILURE)
    except jax.errors.JaxRuntimeError:
      if time.monotonic() - heard > heartbeat_timeout:
        _end(f'stops because {_LOST}{_resumption}.')
      continue
    heard = time.monotonic()
    if failure:
      _end(_because(*json.loads(failure[0][1])))


def fail(error: BaseException) -> NoReturn:
  """Ends this process for an error, with its sentence, and has the others end too.

  An orderly end would wait for the others, who wait for this process in a collective.
  """
  client = distributed.global_state.client
  if _is_of_lost_process(error):
    deadline = time.monotonic() + _SECONDS_FOR_NEWS
    while time.monotonic() < deadline:
      if failure := _in_time(lambda: client.key_value_dir_get(_FAILURE)):
        _end(_because(*json.loads(failure[0][1])))
      time.sleep(0.2)
    _end(f'stops because {_LOST}{_resumption}. ({_one_line(error)[:200]})')
  expected = isinstance(error, ValueError | OSError | KeyboardInterrupt)
  if not expected or flags.FLAGS['debug'].value:
    traceback.print_exception(error)
  sentence = _sentence(error)
  if client is not None:
    news = json.dumps([distributed.global_state.process_id, sentence])
    _in_time(lambda: client.key_value_set(f'{_FAILURE}/first', news))
  _end(f'fails: {sentence}')


def finish() -> None:
  """Waits until the others have finished too; one that fails meanwhile ends this process."""
  distributed.global_state.client.wait_at_barrier(_FINISHED, _DAY * 1000)
  _all_finished.set()


@contextlib.contextmanager
def sentence_for_lost_service(heartbeat_timeout: float) -> Iterator[None]:
  """Has the client that is made inside end this process with a sentence when others are lost.

  The default prints the stacks of all threads and aborts. JAX has no argument for another, and
  jaxlib cannot hand the reason to a function of Python: it ends in std::terminate, whose handler
  is therefore replaced as well.
  """
  options: dict[str, Any] = {}
  with contextlib.suppress(OSError):
    library = ctypes.CDLL('libstdc++.so.6' if sys.platform == 'linux' else 'libc++.1.dylib')
    library._ZSt13set_terminatePFvvE.restype = ctypes.c_void_p
    library._ZSt13set_terminatePFvvE(_TERMINATE)
    options['missed_heartbeat_callback'] = lambda *_: _end_of_lost_service()
  runtime = distributed._jax
  make_client = runtime.get_distributed_runtime_client
  runtime.get_distributed_runtime_client = functools.partial(make_client, **options)
  stop = threading.Event()
  threading.Thread(target=_watch_start, args=(stop, heartbeat_timeout), daemon=True).start()
  try:
    yield
  finally:
    stop.set()
    runtime.get_distributed_runtime_client = make_client


def _watch_start(stop: threading.Event, heartbeat_timeout: float) -> None:
  """Ends this process if process 0 was there and goes away before all have joined."""
  last_seen = None
  while not stop.wait(_SECONDS_BETWEEN_LOOKS):
    state = distributed.global_state
    if state.coordinator_address is None or state.process_id == 0:
      continue
    host, port = state.coordinator_address.rsplit(':', 1)
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=2).close()
      last_seen = time.monotonic()
    except OSError:
      if last_seen is not None and time.monotonic() - last_seen > min(heartbeat_timeout, 10):
        _end('stops because process 0 was lost while starting: start the same command on all of '
             'them again.')  # fmt: skip


def _end_of_lost_service() -> None:
  _end(f'stops because {_LOST}{_resumption}.', reachable=False)


_TERMINATE = ctypes.CFUNCTYPE(None)(_end_of_lost_service)


def _end(what: str, reachable: bool = True) -> NoReturn:
  """Prints the sentence and ends this process; the first of several threads does."""
  if not _one_ends.acquire(blocking=False):
    threading.Event().wait()
  state = distributed.global_state
  line = f'Error: process {state.process_id} of {state.num_processes} {what}'
  with contextlib.suppress(OSError):
    sys.stdout.flush()
    os.write(_standard_error, f'{line}\n'.encode(errors='backslashreplace'))
  if reachable and state.client is not None:
    _in_time(_take_leave)
  for child in multiprocessing.active_children():
    child.kill()
  os._exit(1)


def _take_leave() -> None:
  """Process 0 has the service, so it waits until the others know why they have to end."""
  state = distributed.global_state
  if state.process_id:
    state.client.key_value_set(f'{_ENDING}/{state.process_id}', '')
    return
  while len(state.client.key_value_dir_get(_ENDING)) < state.num_processes - 1:
    time.sleep(0.1)


def _in_time(ask: Callable[[], Any]) -> Any:
  """What the service answers; None if it does not, or says no."""
  answer = []

  def run() -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      answer.append(ask())

  thread = threading.Thread(target=run, daemon=True)
  thread.start()
  thread.join(_SECONDS_FOR_NEWS)
  return answer[0] if answer else None


def _is_of_lost_process(error: BaseException) -> bool:
  """Whether an error is how a collective fails when another process is gone."""
  # On CPU the collectives are Gloo's, whose errors come as plain ValueError too.
  of_jax = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
  return of_jax and _OF_CONNECTIONS.search(str(error)) is not None


def _because(process: int, sentence: str) -> str:
  return f'stops because process {process} failed: {sentence}'


def _sentence(error: BaseException) -> str:
  if isinstance(error, KeyboardInterrupt):
    return f'it was interrupted{_resumption}.'
  if isinstance(error, ValueError | OSError):
    return _one_line(error)
  return f'{type(error).__name__}: {_one_line(error)}'


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
