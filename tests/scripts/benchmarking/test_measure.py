"""Worker processes, and how contestants take turns in them."""

import sys

import numpy as np
import pytest

from scripts.benchmarking import child, measure, serving, table

WORKER = """
import os, signal, sys, time
from scripts.benchmarking import serving

class Worker(serving.Worker):
  def build(self, **case):
    self.kept = bytearray(60 * 2**20)
    self.calls = 0
    def call():
      self.calls += 1
      bytearray(30 * 2**20)
      time.sleep(0.01)
    return call
  def count(self):
    print('not an answer')
    return {'calls': self.calls}
  def fail(self, text):
    raise ValueError(text)
  def die(self):
    sys.stderr.write('the reason\\n')
    os._exit(3)
  def kill(self):
    os.kill(os.getpid(), signal.SIGKILL)

serving.serve(Worker)
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
  (tmp_path / 'small_worker.py').write_text(WORKER)
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  with child.Child('small_worker') as started:
    yield started


def test_a_worker_warms_up_and_times_each_call(worker):
  ready = worker.ask('prepare')
  assert ready['seconds'] >= 0.01
  warm = worker.ask('count')['calls']
  assert warm >= 3  # the first, and at least two
  seconds = worker.ask('time', calls=4, untimed=2)['seconds']
  assert len(seconds) == 4
  assert min(seconds) >= 0.01
  assert worker.ask('count')['calls'] == warm + 6


def test_processor_time_leaves_waiting_out(tmp_path, monkeypatch):
  (tmp_path / 'small_worker.py').write_text(WORKER.replace('sleep(0.01)', 'sleep(0.5)'))
  monkeypatch.setenv('PYTHONPATH', str(tmp_path))
  monkeypatch.setenv(serving.CLOCK, 'processor')
  with child.Child('small_worker') as started:
    started.ask('prepare')
    seconds = started.ask('time', calls=1)['seconds']
  assert max(seconds) < 0.4  # the call sleeps for longer


@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere a peak cannot be forgotten')
def test_memory_is_the_growth_of_the_process_and_the_part_of_a_call(worker):
  worker.ask('prepare')
  worker.ask('time', calls=1)
  found = worker.ask('memory')
  assert found['memory_of'] == 'host'
  assert 85 < found['peak_memory_bytes'] / 2**20 < 120
  assert 28 < found['call_memory_bytes'] / 2**20 < 45


def test_an_error_is_a_sentence_and_the_worker_goes_on(worker):
  with pytest.raises(child.ChildError, match='^two lines$'):
    worker.ask('fail', text='two\n  lines')
  worker.ask('prepare')


@pytest.mark.parametrize(('how', 'why'), [('die', 'code 3: the reason'), ('kill', 'memory')])
def test_a_lost_process_says_why(worker, how, why):
  for _ in range(2):  # and so it does from then on
    with pytest.raises(child.ChildError, match=why):
      worker.ask(how)


def test_a_missing_interpreter_is_a_sentence(tmp_path):
  with pytest.raises(child.ChildError, match='cannot be started'):
    child.Child('small_worker', str(tmp_path / 'python'))


# ---------------------------------------------------------------- turns


class FakeChild:
  """Answers as a worker would, at once; notes what it is asked."""

  log: list  # of (contestant, what), over all
  fail_at: dict  # contestant -> number of its timing that fails

  def __init__(self, module, python=None, **environment):
    self.name = self.turns = None

  def ask(self, what, **arguments):
    if what == 'prepare':
      self.name, self.turns = arguments['contestant'], 0
      return {'first_seconds': 1.0, 'seconds': 0.3}
    FakeChild.log.append((self.name, what))
    if what == 'time':
      self.turns += 1
      if self.turns == FakeChild.fail_at.get(self.name):
        raise child.ChildError('out of memory')
      return {'seconds': [float(self.turns)] * arguments['calls']}
    return {'peak_memory_bytes': 5, 'memory_of': 'host'}

  def close(self):
    FakeChild.log.append((self.name, 'close'))


@pytest.fixture
def run_fakes(monkeypatch):
  """(names, options, fail_at) -> rows of a case, and what was asked in which order."""

  def run(names, fail_at=(), **options):
    FakeChild.log, FakeChild.fail_at = [], dict(fail_at)
    monkeypatch.setattr(measure, 'Child', FakeChild)
    case = measure.Case('F0', {'variant': 'F0'}, 'predict', 2, 64)
    info = {'drop_rate': 0.0, 'stochdepth_rate': 0.0, 'files': {}}
    return measure.run_case(case, names, info, measure.Options(**options)), FakeChild.log

  return run


def test_contestants_take_turns_and_each_round_begins_with_another(run_fakes):
  rows, log = run_fakes(['ours', 'published', 'timm'], rounds=4)
  order = [name for name, what in log if what == 'time']
  assert order == [
    'ours', 'published', 'timm',
    'published', 'timm', 'ours',
    'timm', 'ours', 'published',
    'ours', 'published', 'timm',
  ]  # fmt: skip
  for one in rows:
    assert one['seconds'] == [1, 2, 3, 4]
    assert one['median'] == 2.5
    np.testing.assert_allclose(one['spread'], (3.25 - 1.75) / 2.5)
    assert one['images_per_second'] == 2 / 2.5


def test_a_contestant_that_fails_is_a_row_and_the_others_go_on(run_fakes):
  rows, log = run_fakes(['ours', 'timm'], {'timm': 2}, rounds=5)
  assert rows[0]['seconds'] == [1, 2, 3, 4, 5]
  assert rows[1]['failed'] == 'out of memory'
  assert rows[1]['seconds'] == [1]
  assert 'median' not in rows[1]
  assert {('ours', 'close'), ('timm', 'close')} <= set(log)
  assert 'failed: out of memory' in table.text(table.cells(rows))


def test_alone_each_ends_before_the_next_begins(run_fakes):
  _, log = run_fakes(['ours', 'timm'], rounds=2, alone=True)
  first_of_timm = next(i for i, (name, _) in enumerate(log) if name == 'timm')
  assert ('ours', 'close') in log[:first_of_timm]


def test_the_limit_of_seconds_leaves_three_rounds(run_fakes):
  rows, _ = run_fakes(['ours'], rounds=9, seconds_limit=0)
  assert len(rows[0]['seconds']) == 3


def test_runtimes_only_predict():
  predict, step = (measure.Case('F0', {}, task, 1, 64) for task in ('predict', 'step'))
  assert measure.contestants_of(predict, [], ['timm-compiled'], ['onnx', 'openvino']) == [
    'ours', 'onnx', 'openvino', 'timm-compiled',
  ]  # fmt: skip
  assert measure.contestants_of(step, [], [], ['onnx', 'openvino']) == ['ours']


def test_who_takes_part():
  predict, step = (measure.Case('F0', {}, task, 1, 64) for task in ('predict', 'step'))
  baselines = ['published', 'unfolded']
  assert measure.contestants_of(predict, baselines, []) == ['ours', *baselines]
  assert measure.contestants_of(step, baselines, ['timm', 'timm-compiled']) == [
    'ours', 'published', 'timm', 'timm-contiguous', 'timm-compiled',
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('ours', 'timms'),
  [
    ('F0', 'dm_nfnet_f0'),
    ('NF-RegNet-B1', 'nf_regnet_b1'),
    ('NF-ResNet-50', 'nf_resnet50'),
    ('eca_nfnet_l0', 'eca_nfnet_l0'),
    ('EfficientNet-B3', 'efficientnet_b3'),
  ],
)
def test_names_of_timm(ours, timms):
  assert measure.timm_name(ours) == timms
