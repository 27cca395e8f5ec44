"""The console lines of a run, and which steps are recorded."""

import math

import numpy as np

from experiments.reporting.progress import Progress, StepLog
from experiments.reporting.recording import MetricWriter, read_csv


def test_progress_line():
  now = [100.0]
  progress = Progress(
    total_steps=5600, steps_per_epoch=56, images_per_step=64, start_step=1100, clock=lambda: now[0]
  )
  now[0] += 8.0
  line = progress.line(1200, loss=0.12344, learning_rate=0.04)
  assert line == ('step 1200/5600  epoch 21.4/100  loss 0.1234  lr 0.0400  800 images/s  ETA 5m52s')
  now[0] += 1000.0  # an evaluation
  progress.restart(1200)
  now[0] += 200.0
  line = progress.line(1210, loss=math.nan, learning_rate=2e-5)
  assert line == ('step 1210/5600  epoch 21.6/100  loss nan  lr 2.00e-05  3.2 images/s  ETA 1d00h')
  assert progress.line(1210, loss=1, learning_rate=0).endswith('lr 0.0000  - images/s  ETA -')


def test_steps_are_logged_at_their_multiples_and_at_both_ends(tmp_path, capsys):
  pace = Progress(total_steps=9, steps_per_epoch=3, images_per_step=4)
  with MetricWriter(tmp_path) as writer:
    log = StepLog(writer, pace, every=4, first=3, last=9)
    assert [step for step in range(3, 10) if log.due(step)] == [3, 4, 8, 9]
    log.write(4, {'loss': np.float32(0.5), 'learning_rate': np.float32(0.25)}, {'extra': 2.0})
    log.write_test(4, {'top1': 0.75})
  series = {name: s.values.tolist() for name, s in read_csv(tmp_path).items()}
  assert series['train/loss'] == [0.5]
  assert series['train/extra'] == [2.0]
  assert series['test/top1'] == [0.75]
  assert 0 <= series['train/data_wait_share'][0] <= 1
  assert 'loss 0.5000  lr 0.2500' in capsys.readouterr().out


def test_the_rate_begins_after_the_first_step(tmp_path, capsys):
  now = [0.0]
  pace = Progress(total_steps=9, steps_per_epoch=3, images_per_step=4, clock=lambda: now[0])
  with MetricWriter(tmp_path) as writer:
    log = StepLog(writer, pace, every=2, first=1, last=9)
    metrics = {'loss': np.float32(0.5), 'learning_rate': np.float32(0.25)}
    now[0] += 60.0  # it compiled
    pace.restart(1)
    log.write(1, metrics)
    assert capsys.readouterr().out.rstrip().endswith('- images/s  ETA -')
    now[0] += 1.0
    log.write(3, metrics)
    assert capsys.readouterr().out.rstrip().endswith('8.0 images/s  ETA 3s')
  assert read_csv(tmp_path)['train/images_per_second'].values.tolist() == [8.0]
