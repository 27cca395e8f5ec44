"""Metric files survive kills and resumes; TensorBoard reads what was written."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.reporting.recording import MetricWriter, read_csv

ROOT = Path(__file__).parents[3]


def _as_lists(workdir):
  return {name: (s.steps.tolist(), s.values.tolist()) for name, s in read_csv(workdir).items()}


def test_round_trip_with_growing_columns(tmp_path):
  third = np.float32(1 / 3)
  with MetricWriter(tmp_path / 'run') as writer:
    writer.write(1, {'train/loss': third})
    writer.write(2, {'train/loss': math.nan, 'test/top1': math.inf})
  series = read_csv(tmp_path / 'run' / 'metrics.csv')
  assert list(series) == ['train/loss', 'test/top1']
  assert series['train/loss'].steps.tolist() == [1, 2]
  assert np.float32(series['train/loss'].values[0]) == third
  assert math.isnan(series['train/loss'].values[1])
  assert series['test/top1'].values.tolist() == [math.inf]
  lines = (tmp_path / 'run' / 'metrics.csv').read_text().splitlines()
  assert lines[:2] == ['step,name,value', '1,train/loss,0.333333343']


def test_resume_drops_what_came_after_the_checkpoint(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (10, 20, 30):
      writer.write(step, {'loss': step})
  with (tmp_path / 'metrics.csv').open('a') as file:
    file.write('40,loss,0.12')  # killed in the middle of 0.1234
  assert _as_lists(tmp_path) == {'loss': ([10, 20, 30], [10, 20, 30])}
  with MetricWriter(tmp_path, resume_step=20) as writer:
    assert _as_lists(tmp_path) == {'loss': ([10, 20], [10, 20])}
    writer.write(30, {'loss': -30})
  assert _as_lists(tmp_path) == {'loss': ([10, 20, 30], [10, 20, -30])}
  assert (tmp_path / 'metrics.csv').read_text().count('30,loss') == 1


def test_new_run_starts_a_new_file(tmp_path):
  for value in (1.0, 2.0):
    with MetricWriter(tmp_path) as writer:
      writer.write(5, {'loss': value})
  assert _as_lists(tmp_path) == {'loss': ([5], [2.0])}
  assert [e.value for e in _events(tmp_path).Scalars('loss')] == [2.0]
  with MetricWriter(tmp_path / 'other', resume_step=7) as writer:  # the CSV may be gone
    writer.write(8, {'loss': 1.0})
  assert _as_lists(tmp_path / 'other') == {'loss': ([8], [1.0])}


def _events(path):
  accumulator = EventAccumulator(str(path))
  accumulator.Reload()
  return accumulator


def test_tensorboard_reads_one_curve_across_a_resume(tmp_path):
  with MetricWriter(tmp_path) as writer:
    for step in (1, 2, 3, 4):
      writer.write(step, {'train/loss': step / 8})
  (file,) = tmp_path.glob('events.*')
  file.write_bytes(file.read_bytes()[:-5])  # killed in the middle of a record
  with MetricWriter(tmp_path, resume_step=2) as writer:
    writer.write(3, {'train/loss': 9.0})
  scalars = _events(tmp_path).Scalars('train/loss')
  assert [(e.step, e.value) for e in scalars] == [(1, 0.125), (2, 0.25), (3, 9.0)]


def test_no_tensorflow_even_where_it_is_installed(tmp_path):
  (tmp_path / 'tensorflow').mkdir()
  (tmp_path / 'tensorflow' / '__init__.py').write_text('raise RuntimeError("imported")')
  code = (
    'import sys, experiments.reporting.recording as m\n'
    'with m.MetricWriter("run") as w: w.write(1, {"loss": 1.0})\n'
    'assert "tensorflow" not in sys.modules'
  )
  path = os.pathsep.join([str(tmp_path), str(ROOT)])
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': path},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert _as_lists(tmp_path / 'run') == {'loss': ([1], [1.0])}


def test_rows_survive_a_kill(tmp_path):
  code = (
    'import os, signal, experiments.reporting.recording as m\n'
    'w = m.MetricWriter("run")\n'
    'w.write(1, {"loss": 0.5})\n'
    'os.kill(os.getpid(), signal.SIGKILL)'
  )
  env = {**os.environ, 'PYTHONPATH': str(ROOT)}
  done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=env)
  assert done.returncode == -signal.SIGKILL
  assert _as_lists(tmp_path / 'run') == {'loss': ([1], [0.5])}
  assert [e.value for e in _events(tmp_path / 'run').Scalars('loss')] == [0.5]


def test_inactive_writer_leaves_no_trace(tmp_path):
  with MetricWriter(tmp_path / 'run', active=False) as writer:
    writer.write(1, {'loss': 1.0})
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['', 'a,b', 'a\nb', 'a"b'])
def test_bad_names_are_refused_and_nothing_is_written(tmp_path, name):
  with MetricWriter(tmp_path) as writer, pytest.raises(ValueError, match='metric name'):
    writer.write(1, {'loss': 1.0, name: 1.0})
  assert _as_lists(tmp_path) == {}


def test_repeated_rows_count_once(tmp_path):
  (tmp_path / 'metrics.csv').write_text('step,name,value\n2,a,1\n1,a,3\n2,a,5\n')
  assert _as_lists(tmp_path) == {'a': ([1, 2], [3.0, 5.0])}


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('a,b\n1,2\n', 'does not start'),
    ('step,name,value\n1,loss\n', 'line 2'),
    ('step,name,value\n1,loss,1\n2,loss,one\n3,loss,1\n', 'line 3'),
  ],
)
def test_foreign_files_are_refused(tmp_path, text, message):
  (tmp_path / 'metrics.csv').write_text(text)
  with pytest.raises(ValueError, match=message):
    read_csv(tmp_path)
  assert (tmp_path / 'metrics.csv').read_text() == text


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'step,name,value\n',  # all rows of the 5 steps are gone
    b'step,name,value\n1,loss,1\n4,lo',  # cut before the checkpoint's step
    b'a,b\n1,2\n',
    b'step,name,value\n1,loss\n',
    b'step,name,value\n1,,1\n',
    b'step,name,value\n1,loss,1\n2,loss,one\n3,loss,1\n',
    b'step,name,value\n1,lo\xffss,1\n',
    b'\0' * 40 + b'\n',
    '\ufeffstep,name,value\n1,loss,1\n'.encode('utf-16'),
  ],
)
def test_a_run_goes_on_without_the_metrics_that_cannot_be_read(tmp_path, content, caplog):
  (tmp_path / 'metrics.csv').write_bytes(content)
  for again in range(2):
    with MetricWriter(tmp_path, resume_step=5) as writer:
      writer.write(6, {'loss': 0.5})
    assert _as_lists(tmp_path) == {'loss': ([6], [0.5])}
    assert [p.read_bytes() for p in tmp_path.glob('damaged_metrics*')] == [content] * (again + 1)
    (tmp_path / 'metrics.csv').write_bytes(content)
  assert caplog.text.count('The run goes on') == 2
  assert 'damaged_metrics-1.csv' in caplog.text


@pytest.mark.parametrize('half', [b'', b'6,lo', b'1', b'6,loss,0.', b'6,lo\xff'])
def test_half_a_row_of_after_the_checkpoint_is_dropped_in_silence(tmp_path, half, caplog):
  (tmp_path / 'metrics.csv').write_bytes(b'step,name,value\n4,loss,1\n' + half)
  MetricWriter(tmp_path, resume_step=5).close()
  assert (tmp_path / 'metrics.csv').read_text() == 'step,name,value\n4,loss,1\n'
  assert not caplog.text


def test_half_a_header_is_an_empty_file(tmp_path):
  (tmp_path / 'metrics.csv').write_text('step,na')
  assert read_csv(tmp_path) == {}
