"""Ctrl-C, SIGTERM and SIGHUP: from the first import to the end of the loop."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).parent / 'tiny_config.py'
LONG = ['--config.num_epochs=1000', '--config.checkpoint_every_steps=100000']


def wait_for(condition, process, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()[0]
    assert time.monotonic() < deadline
    time.sleep(0.01)


def listens(process):
  """Whether our handler of SIGHUP is there: it comes with the first import of the package."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  return int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16) & 1 << signal.SIGHUP - 1


def logged(workdir, step):
  path = workdir / 'metrics.csv'
  return path.exists() and re.search(rf'^{step},', path.read_text(), re.MULTILINE)


def shared_memory(pids):
  """The names of what these processes share at this moment."""
  maps = ''.join(pathlib.Path(f'/proc/{pid}/maps').read_text() for pid in pids)
  return set(re.findall(r'/dev/shm/(\S+)', maps))


def is_left(names):
  return [name for name in names if pathlib.Path('/dev/shm', name).exists()]


def descendants(process):
  found = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True, check=False
  )
  return [int(pid) for pid in found.stdout.split()]


def is_gone(pid):
  try:
    return 'Z' in pathlib.Path(f'/proc/{pid}/stat').read_text().split()[2]
  except OSError:
    return True


@pytest.mark.parametrize('seconds', [0, 0.7, 1.5, 2.5])
def test_ctrl_c_while_starting_is_one_line(start_training, tmp_path, seconds):
  process = start_training(tmp_path / 'run', *LONG)
  wait_for(lambda: listens(process), process)
  time.sleep(seconds)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=20)
  assert process.returncode == 130, output
  assert output.splitlines()[-1].startswith('Error: interrupted.')
  assert 'Traceback' not in output
  assert 'from step' not in output


def test_ctrl_c_in_the_terminal_saves_and_the_second_ends_at_once(start_training, train, tmp_path):
  flags = ['--config.num_epochs=50', '--config.checkpoint_every_steps=100000']
  flags += ['--config.data.num_workers=2']
  process = start_training(tmp_path, *flags, start_new_session=True)
  wait_for(lambda: logged(tmp_path, 8), process)
  children = descendants(process)
  assert len(children) >= 3  # two workers and the resource tracker
  os.killpg(process.pid, signal.SIGINT)  # to all processes, as a terminal does
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 75, output
  step = int(re.search(r'Asked to stop after step (\d+)\.', output)[1])
  assert f'The same command goes on from step {step}.' in output
  assert (tmp_path / 'checkpoints' / str(step)).is_dir()
  assert 'Traceback' not in output
  assert 'leaked' not in output

  process = start_training(tmp_path, *flags, start_new_session=True)
  wait_for(lambda: logged(tmp_path, step + 8 - step % 4), process)
  children += descendants(process)
  shared = shared_memory([process.pid, *descendants(process)])
  assert shared
  os.killpg(process.pid, signal.SIGHUP)
  os.killpg(process.pid, signal.SIGINT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode in (129, 130), output
  last = output.splitlines()[-1]
  assert re.fullmatch(r'Error: interrupted.*\. The same command goes on from step \d+\.', last)
  assert int(re.search(r'step (\d+)', last)[1]) >= step
  assert 'Traceback' not in output
  deadline = time.monotonic() + 20
  while not all(map(is_gone, children)) or is_left(shared):
    assert time.monotonic() < deadline, (children, is_left(shared))
    time.sleep(0.05)


def test_a_closed_terminal_and_another_exit_code(start_training, tmp_path):
  process = start_training(tmp_path, *LONG, '--exit_code_when_stopped=0')
  wait_for(lambda: logged(tmp_path, 4), process)
  process.send_signal(signal.SIGHUP)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 0, output
  assert re.search(r'The same command goes on from step \d+\.', output)


def test_ctrl_c_before_the_first_checkpoint_promises_none(start_training, tmp_path):
  process = start_training(tmp_path, *LONG)
  wait_for(lambda: logged(tmp_path, 1), process)
  process.send_signal(signal.SIGTERM)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode in (130, 143), output
  if not list((tmp_path / 'checkpoints').glob('[0-9]*')):
    assert 'There is no checkpoint yet: the same command starts from the beginning.' in output


def test_ctrl_c_in_an_evaluation_is_one_line():
  command = [sys.executable, '-m', 'experiments.evaluate', f'--config={CONFIG}', '--weights=none']
  process = subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  wait_for(lambda: listens(process), process)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=20)
  assert (process.returncode, output) == (130, 'Error: interrupted.\n')
