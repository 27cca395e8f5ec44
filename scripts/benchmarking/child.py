"""The parent's side of a worker: a process that does what it is asked, one thing at a time."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any, Self

from nfnets import interruption

ROOT = pathlib.Path(__file__).parents[2]  # of the packages `scripts` and `experiments`


class ChildError(Exception):
  """What a worker could not do, as one sentence; the message says why."""


class Child:
  """A worker in a process of its own."""

  def __init__(self, module: str, python: str = sys.executable, **environment: str):
    """Starts an interpreter with a worker.

    Args:
      module: that calls `serving.serve`, such as 'scripts.benchmarking.jax_worker'.
      python: the interpreter.
      **environment: variables to set beside those of this process.

    Raises:
      ChildError: there is no such interpreter.
    """
    places = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    self._log = tempfile.TemporaryFile()  # noqa: SIM115 - until close()
    try:
      self._process = subprocess.Popen(
        [python, '-m', module],
        # Safe: without the current folder, whose packages may have the names of ours.
        env={
          **os.environ,
          'PYTHONPATH': os.pathsep.join(places),
          'PYTHONSAFEPATH': '1',
          **environment,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=self._log,
        text=True,
      )
    except OSError as error:
      raise ChildError(f'{python} cannot be started: {error.strerror}') from error
    self._stack = contextlib.ExitStack()
    self._stack.enter_context(interruption.undone(self._kill))

  def __enter__(self) -> Self:
    """Returns itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Ends the process."""
    self.close()

  def ask(self, what: str, **arguments: Any) -> Any:
    """Has the worker's method called with these arguments and returns its result.

    Raises:
      ChildError: it raised an error, or the process ended.
    """
    try:
      print(json.dumps({'ask': what, **arguments}), file=self._process.stdin, flush=True)
      line = self._process.stdout.readline()
    except BrokenPipeError:
      line = ''
    if not line:
      raise ChildError(self._why_it_ended())
    answer = json.loads(line)
    if 'error' in answer:
      raise ChildError(answer['error'])
    return answer

  def _kill(self) -> None:
    self._process.kill()
    self._process.wait(timeout=5)

  def close(self) -> None:
    """Ends the process, whatever it is doing."""
    if not self._log.closed:
      self._process.kill()
      self._process.communicate()
      self._log.close()
      self._stack.close()

  def _why_it_ended(self) -> str:
    code = self._process.wait()
    if code == -9:
      return 'its process was killed, as the system does when memory runs out'
    self._log.seek(0)
    lines = self._log.read().decode(errors='replace').split('\n')
    last = next((line.strip() for line in reversed(lines) if line.strip()), 'no word of why')
    return f'its process ended with code {code}: {last}'
