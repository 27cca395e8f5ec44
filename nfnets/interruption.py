"""Ctrl-C, SIGTERM and SIGHUP, from a program's first import to its last file.

A thread of its own hears them. Python's handlers wait until the main thread is back from compiling,
and an exception that they raise is lost in whatever callback it meets: one of the garbage
collector's, or an event loop's. Standard library only: this is loaded before all that takes time.

Only programs listen, with `listen` as their first act. In a process that does not, such as a
notebook, signals do what they always do.
"""

import atexit
import contextlib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_TO_DECIDE = 10.0  # at most, should the thread be gone
_SECONDS_TO_FLUSH = 0.5  # whoever reads the output may have stopped
_CLEAR_LINE = '\r\x1b[K'  # of a terminal, which shows ^C or half a progress bar there

_UNDO: dict[object, Callable[[], object]] = {}  # what `undone` has to do


class _Listener:
  """What this process does about the signals; there is one."""

  def __init__(self):
    self.at_once = False  # whether nothing may ask for patience
    self.graceful = False  # whether the first signal only asks
    self.asked = False
    self.forward = False  # whether it is handed on as SIGTERM, which JAX hears
    self.promise = ''
    self.last_words = 'Error: interrupted{by}.'
    self.explain: Callable[[], str] = lambda: ''
    self._ending = self._over = False
    self._decided = threading.Semaphore(0)
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
    atexit.register(self._finish)
    thread = threading.Thread(target=self._hear, args=(self._pipe[0],), daemon=True)
    thread.start()

  def stop(self) -> None:
    for number, handler in self._earlier.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(-1)
    atexit.unregister(self._finish)
    os.close(self._pipe[1])  # the thread ends
    os.close(self._stderr)
    self.__init__()

  def _handle(self, number: int, frame: FrameType | None) -> None:
    # The thread decides. Until then the main thread must not go on: it would find its workers dead,
    # which hear the signal too, and write that down.
    self.asked = self.asked or self.graceful
    if not self._over:
      self._decided.acquire(timeout=_SECONDS_TO_DECIDE)

  def _hear(self, pipe: int) -> None:
    heard = False
    while numbers := os.read(pipe, 1):
      number = numbers[0]
      if number not in _SIGNALS:
        continue
      if heard or not self.graceful:
        self._end(number)
      heard = self.asked = True
      if self.promise:
        self._say(f'{signal.Signals(number).name}: {self.promise}')
      if self.forward and number != signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGTERM)
      self._decided.release()
    os.close(pipe)

  def _end(self, number: int) -> None:
    self._ending = True
    by = '' if number == signal.SIGINT else f' by {signal.Signals(number).name}'
    with contextlib.suppress(Exception):
      _flush()
    with contextlib.suppress(Exception):
      line = f'{self.last_words.format(by=by)} {self.explain()}'.rstrip()
      self._say(f'{_CLEAR_LINE}{line.lstrip()}' if os.isatty(self._stderr) else line)
    with contextlib.suppress(Exception):
      # Other threads go on meanwhile, and may trip over what is taken from them now.
      for standard in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), standard)
    for undo in reversed(list(_UNDO.values())):
      with contextlib.suppress(Exception):
        undo()
    for child in _children():
      with contextlib.suppress(OSError):
        os.kill(child, signal.SIGKILL)
    # Without the interpreter's own end, at which threads of JAX and TensorFlow may crash.
    os._exit(128 + number)

  def _finish(self) -> None:
    """Keeps a main thread that is done from ending the process with its own exit code."""
    if self._ending:
      threading.Event().wait()
    self._over = True

  def _say(self, line: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
      os.write(self._stderr, f'{line}\n'.encode(errors='backslashreplace'))


_LISTENER = _Listener()


def _children() -> list[int]:
  """The child processes, but for the one that cleans up after them."""
  # Nothing is imported: the main thread may have stopped in an import.
  process = sys.modules.get('multiprocessing.process')
  tracker = sys.modules.get('multiprocessing.resource_tracker')
  if process is None:
    return []
  children = {child.pid for child in process.active_children()}
  # On Linux also those that are being started, which would complain that nobody tells them more.
  for path in pathlib.Path('/proc/self/task').glob('*/children'):
    with contextlib.suppress(OSError):
      children.update(map(int, path.read_text().split()))
  return [pid for pid in children if not tracker or pid != tracker._resource_tracker._pid]


def _flush() -> None:
  """Writes out what was printed, unless that takes too long."""
  for stream in (sys.stdout, sys.stderr):
    thread = threading.Thread(target=stream.flush, daemon=True)
    thread.start()
    thread.join(_SECONDS_TO_FLUSH)


def listen(*, at_once: bool = False) -> bool:
  """Ends this process with one line and exit code 128 + n at the first signal n from now on.

  What is not finished is removed (see `undone`), and worker processes end with it. What they leave
  in shared memory is removed by Python's resource tracker, without a word.

  Args:
    at_once: even within `graceful`.

  Returns:
    Whether it is new: False if this process listened already.
  """
  if _LISTENER.listening:
    return False
  # The tracker is started with these options. What is left when a run ends at once is its work.
  sys.warnoptions.append('ignore:resource_tracker')
  _LISTENER.at_once = at_once
  _LISTENER.start()
  return True


def stop_listening() -> None:
  """Puts back what was there before `listen`."""
  _LISTENER.stop()


def explain(sentence: Callable[[], str]) -> None:
  """Lets `sentence()` follow the line that a process ends with."""
  _LISTENER.explain = sentence


def say_at_end(words: str) -> None:
  """Lets the line that a process ends with be these words instead of 'Error: interrupted{by}.'.

  With a newline before them they do not stand behind a progress bar, wherever it is written.
  """
  _LISTENER.last_words = words


@contextlib.contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
  """Inside, a signal that ends this process has `undo()` called, in a thread; nothing else does."""
  key = object()
  _UNDO[key] = undo
  try:
    yield
  finally:
    _UNDO.pop(key, None)


@contextlib.contextmanager
def temporary_folder() -> Iterator[str]:
  """Yields a new folder that is removed afterwards, or when a signal ends this process."""
  with (
    tempfile.TemporaryDirectory() as folder,
    undone(lambda: shutil.rmtree(folder, ignore_errors=True)),
  ):
    yield folder


@contextlib.contextmanager
def graceful(*, forward: bool = False, promise: str = '') -> Iterator[None]:
  """Inside, the first signal only asks to stop; the second ends this process.

  Args:
    forward: hands Ctrl-C and SIGHUP on as SIGTERM.
    promise: what to say at the first signal; '': nothing.
  """
  if _LISTENER.at_once:
    yield
    return
  _LISTENER.graceful, _LISTENER.forward, _LISTENER.promise = True, forward, promise
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
  from multiprocessing import resource_tracker  # not before it is needed: it takes its time

  earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
  try:
    resource_tracker.ensure_running()  # it outlives us to clean up; to start it unmasks signals
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
