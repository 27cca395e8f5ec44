"""The end of a program at a signal: one line, its exit code, and nothing unfinished."""

import os
import pathlib
import pty
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def run(program, *arguments, **options):
  """What a program does that starts by listening."""
  return subprocess.run(
    [sys.executable, '-c', f'from nfnets import interruption\n{program}', *map(str, arguments)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=15,
    check=False,
    **options,
  )


SWALLOWED = """
import gc, os, signal, time

interruption.listen()
gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))
gc.collect()  # what a handler raises in a callback is printed and dropped
time.sleep(20)
"""


def test_ctrl_c_in_a_callback_is_not_swallowed():
  done = run(SWALLOWED)
  assert (done.returncode, done.stderr) == (130, 'Error: interrupted.\n')


UNFINISHED = """
import os, pathlib, signal, sys, time
from nfnets.weights import atomic
from experiments.runtime import atomic_files

interruption.listen()
place = pathlib.Path(sys.argv[1])
print('computed', end='')  # is not lost, though nothing flushes it

def stop(path):
  path.write_text('half')
  with interruption.temporary_folder() as folder:
    (place / 'folder').write_text(folder)
    with atomic.replacing(place / 'weights') as unfinished:
      unfinished.write_text('half')
      try:
        os.kill(os.getpid(), signal.{name})
        for _ in range(1000):
          time.sleep(0.01)
      finally:
        print('goes on')

atomic_files.replace(place / 'figures', stop)
"""


@pytest.mark.parametrize(
  ('name', 'line'),
  [('SIGINT', 'Error: interrupted.'), ('SIGTERM', 'Error: interrupted by SIGTERM.')],
)
def test_what_is_unfinished_is_removed(tmp_path, name, line):
  (tmp_path / 'weights').write_text('old')
  done = run(UNFINISHED.replace('{name}', name), tmp_path)
  assert (done.returncode, done.stdout, done.stderr) == (
    128 + getattr(signal, name),
    'computed',
    f'{line}\n',
  )
  assert {path.name for path in tmp_path.iterdir()} == {'weights', 'folder'}
  assert (tmp_path / 'weights').read_text() == 'old'
  assert not pathlib.Path((tmp_path / 'folder').read_text()).exists()


FULL = """
import os, signal, sys, threading
interruption.listen()
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
while True:
  print('x' * 1000)
"""


def test_a_pipe_that_nobody_reads_does_not_keep_it():
  process = subprocess.Popen(
    [sys.executable, '-c', f'from nfnets import interruption\n{FULL}'],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  assert process.wait(timeout=15) == 130
  assert process.stderr.read() == b'Error: interrupted.\n'
  process.stdout.close()


def test_a_main_thread_that_ends_meanwhile_does_not_choose_the_exit_code():
  program = """
import os, signal, sys, time
interruption.listen()
with interruption.undone(lambda: time.sleep(1)):
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.3)
print('Error: a file is gone', file=sys.stderr)
sys.exit(1)
"""
  done = run(program)
  assert (done.returncode, done.stderr) == (130, 'Error: interrupted.\n')


def test_on_a_terminal_the_line_begins_where_a_line_begins():
  program = """
import os, signal, sys, time
interruption.listen()
print('  50 %', end='', file=sys.stderr, flush=True)
os.kill(os.getpid(), signal.SIGINT)
time.sleep(10)
"""
  mine, its = pty.openpty()
  process = subprocess.Popen(
    [sys.executable, '-c', f'from nfnets import interruption\n{program}'], cwd=ROOT, stderr=its
  )
  assert process.wait(timeout=15) == 130
  os.close(its)
  assert os.read(mine, 1000) == b'  50 %\r\x1b[KError: interrupted.\r\n'
  os.close(mine)


@pytest.mark.parametrize(('at_once', 'code'), [(True, 130), (False, 3)])
def test_patience_can_be_refused(at_once, code):
  program = f"""
import os, signal, sys, time
interruption.listen(at_once={at_once})
with interruption.graceful(promise='saving.'):
  os.kill(os.getpid(), signal.SIGINT)
  time.sleep(0.3)
sys.exit(3 if interruption.asked() else 4)
"""
  done = run(program)
  assert done.returncode == code
  assert done.stderr == ('Error: interrupted.\n' if at_once else 'SIGINT: saving.\n')


def test_only_programs_listen():
  program = 'import signal, experiments, nfnets.cli; print(*map(signal.getsignal, (1, 15)))'
  assert run(program).stdout == '0 0\n'  # SIG_DFL


def test_the_main_thread_does_nothing_more(tmp_path):
  program = """
import os, pathlib, signal, sys, time
interruption.listen()
with interruption.undone(lambda: time.sleep(1)):
  os.kill(os.getpid(), signal.SIGINT)
  pathlib.Path(sys.argv[1], 'written').touch()
"""
  assert run(program, tmp_path).returncode == 130
  assert not list(tmp_path.iterdir())
