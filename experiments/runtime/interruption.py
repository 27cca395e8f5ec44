"""Ctrl-C, SIGTERM and SIGHUP, from a command's first import to its last file.

A thread of its own hears them. Python's handlers wait until the main thread is back from compiling,
and an exception that they raise is lost in whatever callback it meets: one of the garbage
collector's, or an event loop's. Standard library only: this is loaded before all that takes time.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Listener:
  """What this process does about the signals; there is one."""

  def __init__(self):
    self.graceful = False  # whether the first signal only asks
    self.asked = False
    self.forward = False  # whether it is handed on as SIGTERM, which JAX hears
    self.explain: Callable[[], str] = lambda: ''
    self._stderr = -1
    self._pipe = (-1, -1)
    self._earlier: dict[int, object] = {}

  @property
  def listening(self) -> bool:
    return bool(self._earlier)

  def start(self) -> None:
    self._stderr = os.dup(2)  # its own: others redirect standard error for a while
    self._pipe = os.pipe()
    os.set_blocking(self._pipe[1], False)
    self._earlier = {}
    for number in _SIGNALS:
      if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
        self._earlier[number] = signal.signal(number, self._handle)
    signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
    thread = threading.Thread(target=self._hear, args=(self._pipe[0],), daemon=True)
    thread.start()

  def stop(self) -> None:
    for number, handler in self._earlier.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    os.close(self._pipe[1])  # the thread ends
    os.close(self._stderr)
    self.__init__()

  def _handle(self, number: int, frame: FrameType | None) -> None:
    # The thread does the rest; this makes it known to the very next line of the main thread.
    self.asked = self.asked or self.graceful

  def _hear(self, pipe: int) -> None:
    heard = False
    while numbers := os.read(pipe, 1):
      number = numbers[0]
      if number not in _SIGNALS:
        continue
      if heard or not self.graceful:
        self._end(number)
      heard = self.asked = True
      name = signal.Signals(number).name
      self._say(f'{name}: finishing this step and saving. A second signal ends at once.')
      if self.forward and number != signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGTERM)
    os.close(pipe)

  def _end(self, number: int) -> None:
    name = '' if number == signal.SIGINT else f' by {signal.Signals(number).name}'
    with contextlib.suppress(Exception):
      self._say(f'Error: interrupted{name}. {self.explain()}'.rstrip())
    with contextlib.suppress(Exception):
      for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)

  def _say(self, line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
      os.write(self._stderr, f'{line}\n'.encode(errors='backslashreplace'))


_LISTENER = _Listener()


def listen() -> bool:
  """Ends this process with one line and exit code 128 + n at the first signal n from now on.

  Its worker processes end with it. What they leave in shared memory is removed by Python's resource
  tracker, without a word.

  Returns:
    Whether it is new: False if this process listened already.
  """
  if _LISTENER.listening:
    return False
  # The tracker is started with these options. What is left when a run ends at once is its work.
  sys.warnoptions.append('ignore:resource_tracker')
  _LISTENER.start()
  return True


def stop_listening() -> None:
  """Puts back what was there before `listen`."""
  _LISTENER.stop()


def explain(sentence: Callable[[], str]) -> None:
  """Lets `sentence()` follow the line that a process ends with."""
  _LISTENER.explain = sentence


@contextlib.contextmanager
def graceful(*, forward: bool) -> Iterator[None]:
  """Inside, the first signal only asks to stop; the second ends this process.

  Args:
    forward: hands Ctrl-C and SIGHUP on as SIGTERM.
  """
  _LISTENER.graceful, _LISTENER.forward = True, forward
  try:
    yield
  finally:
    _LISTENER.graceful = _LISTENER.forward = False


def asked() -> bool:
  """Whether a signal came while it only asked."""
  return _LISTENER.asked


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
  """Processes that are started inside do not receive the signals: their parent decides.

  A terminal sends Ctrl-C to all of them, and so do schedulers with SIGTERM. They inherit the
  mask of the thread that starts them; another thread of this process still hears the signals.
  """
  earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  try:
    resource_tracker.ensure_running()  # it outlives us to clean up; to start it unmasks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
