"""scripts/benchmark.py: its parts one by one, and a whole run on a network of two blocks.

The tests of timm's side run where this interpreter has torch and timm, or the one that the variable
NFNETS_PEER_PYTHON names.
"""

import functools
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / 'scripts'
sys.path.append(str(SCRIPTS))  # as for the script itself

from benchmarking import (  # noqa: E402
  chart,
  child,
  compare,
  jax_worker,
  machine,
  measure,
  planner,
  scaling,
  serving,
  session,
  table,
)

SPEC = {
  'width': [8, 16],
  'depth': [1, 1],
  'stride': [1, 2],
  'group_width': 4,
  'stem': [[3, 2, 8]],
  'drop_rate': 0.1,
  'train_size': 16,
  'test_size': 24,
}
MODEL = {'variant': 'custom', 'spec': SPEC}
PEER = os.environ.get('NFNETS_PEER_PYTHON', sys.executable)


def has_peer():
  code = 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm"))))'
  return not subprocess.run([PEER, '-c', code], check=False).returncode


def row(contestant='ours', median=0.5, **changes):
  return {
    'model': 'F0',
    'task': 'predict',
    'batch': 2,
    'size': 64,
    'dtype': 'float32',
    'contestant': contestant,
    'median': median,
    'spread': 0.1,
    'images_per_second': 2 / median,
    **changes,
  }


# ---------------------------------------------------------------- processes

WORKER = """
import os, signal, sys, time
from benchmarking import serving

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


# ---------------------------------------------------------------- this library's tasks


@pytest.fixture(scope='module')
def info(tmp_path_factory):
  """What the planner says of the small network, with the files of its weights."""
  plans = planner.Planner()
  files = plans.make_weights(MODEL, str(tmp_path_factory.mktemp('weights')))
  return {**plans.describe(MODEL), 'files': files}


def test_the_planner_describes(info):
  assert (info['train_size'], info['test_size'], info['drop_rate']) == (16, 24, 0.1)
  assert info['parameters'] > 16 * 1000  # at least the classifier's


def build(info, task, contestant='ours', dtype='float32'):
  worker = jax_worker.JaxWorker()
  call = worker.build(
    contestant=contestant, model=MODEL, files=info['files'], task=task, batch=2, size=16,
    dtype=dtype,
  )  # fmt: skip
  return worker, call


def test_the_gradient_reaches_every_parameter(info):
  _, call = build(info, 'gradient')
  gradients, (metrics, _) = call()
  assert np.isfinite(metrics['loss'])
  # With the skip gains at their start, the branches would have none.
  assert all(np.any(g) for leaves in gradients.values() for g in leaves.values())


def test_all_contestants_predict_the_same(info):
  logits = {}
  for name in ('ours', 'unfolded', 'published'):
    worker, call = build(info, 'predict', name)
    with worker._context:
      logits[name] = np.asarray(call())
  assert logits['published'].shape == (2, 1000)
  assert np.std(logits['published']) > 5e-3
  for name in ('ours', 'unfolded'):
    np.testing.assert_allclose(logits[name], logits['published'], rtol=0, atol=1e-6)
  half = np.asarray(build(info, 'predict', dtype='bfloat16')[1]())
  difference = np.abs(half - logits['published']).max()
  assert 1e-6 < difference < 0.05 * np.abs(logits['published']).max()


def test_operations_of_a_network_by_hand():
  stem = 8 * 8 * 8 * 27
  # 1x1 to 4 channels, two 3x3 in a group of 4, 1x1 to 8; the two products of the attention.
  first = 8 * 8 * (8 * 4 + 2 * 4 * 36 + 4 * 8) + 2 * 8 * 4
  # The same to 8, in two groups of 4, to 16, of which half at half the size, and the shortcut.
  second = 8 * 8 * 8 * 8 + 4 * 4 * (2 * 8 * 36 + 8 * 16 + 8 * 16) + 2 * 16 * 8
  final = 4 * 4 * 16 * 32
  forward = stem + first + second + final + 32 * 1000
  count = functools.partial(planner.Planner().count_flops, MODEL, batch=2, size=16)
  assert count('predict')['flops'] == 2 * 2 * forward
  # Each product has a gradient by either factor, but nobody needs that by the images.
  for task in ('gradient', 'step'):
    assert count(task)['flops'] == 2 * 2 * (3 * forward - stem)


# ---------------------------------------------------------------- what is shown


def test_the_table_has_ratios_and_the_better_of_timms_layouts():
  rows = [
    row(peak_memory_bytes=3 * 2**20, gflops_per_second=40.0, share_of_ceiling=0.25),
    row('timm', 1.0),
    row('timm-contiguous', 0.75),
    row('timm', 2.0, batch=4),
    row('published', batch=4, failed='no room'),
  ]
  del rows[-1]['median']
  lines = table.cells(rows)
  places = {name: i for i, name in enumerate(lines[0])}
  ratios = {line[places['contestant']]: line[places['x ours']] for line in lines[1:5]}
  assert ratios == {'ours': '1.00', 'timm': '2.00', 'timm-contiguous': '1.50', 'timm best': '1.50'}
  assert [lines[1][places[name]] for name in ('ms', 'MiB', 'GFLOP/s', 'of ceiling')] == [
    '500', '3', '40.0', '25%',
  ]  # fmt: skip
  assert lines[5][places['x ours']] == '-'  # ours was not measured there
  assert lines[6][-1] == 'failed: no room'
  columns = table.text(lines).splitlines()
  assert {line.index('predict') for line in columns[1:]} == {columns[0].index('task')}
  cells = {line.count('|') for line in table.markdown(lines).splitlines()}
  assert cells == {len(lines[0]) + 1}


def test_slopes_of_powers():
  rows = [
    row(name, factor * size**power, size=size, batch=batch)
    for name, factor, power in (('ours', 1e-6, 2.0), ('timm', 1e-5, 1.5))
    for size in (96, 192, 384)
    for batch in (1, 8)
  ]
  found = {(one['contestant'], one['title']): one for one in scaling.series(rows)}
  assert len(found) == 4
  assert {one['against'] for one in found.values()} == {'size'}
  for (name, _), one in found.items():
    np.testing.assert_allclose(one['slope'], {'ours': 2.0, 'timm': 1.5}[name])
  assert 'time of ours grows as size^2.00 over 96 to 384' in scaling.slopes(rows)
  figure = chart.draw(rows)
  assert [axes.get_title() for axes in figure.axes] == [
    'F0 predict, batch 1', 'F0 predict, batch 8',
  ]  # fmt: skip
  assert all(len(axes.get_lines()) >= 2 for axes in figure.axes)


def test_bars_are_as_long_as_the_ratios(tmp_path):
  figure = chart.draw([row(), row('published', 1.5), row('timm', 0.25)], 'a machine')
  (axes,) = figure.axes
  assert sorted(bar.get_width() for bar in axes.patches) == [0.5, 3.0]
  figure.savefig(tmp_path / 'bars.png')
  alone = chart.draw([row()])
  assert [bar.get_width() for bar in alone.axes[0].patches] == [500]
  with pytest.raises(ValueError, match='nothing was measured'):
    chart.draw([])


@pytest.fixture
def benchmark(load_script):
  return load_script('benchmark')


def test_two_files_side_by_side(benchmark, capsys, tmp_path):
  old = {
    'versions': {'jax': '1'},
    'results': [row(), row('timm', 0.8), row('published', 1.0), row(batch=16)],
  }
  new = {
    'versions': {'jax': '2'},
    'results': [row(median=0.25), row('timm', 0.8 / 1.05), row('published'), row(batch=32)],
  }
  del new['results'][2]['median']
  for name, results in (('a', old), ('b', new)):
    (tmp_path / name).write_text(json.dumps(results))
  assert benchmark.main(['--compare', str(tmp_path / 'a'), str(tmp_path / 'b')]) == 0
  output = capsys.readouterr().out
  lines = {line.split()[4]: line.split() for line in output.splitlines() if 'F0  ' in line}
  assert lines['ours'][5:8] == ['500', '250', '2.000']
  assert 'within' not in lines['ours']
  assert lines['timm'][7] == '1.050'
  assert 'within' in lines['timm']
  assert 'published failed in b' in output
  assert 'only a has F0 predict 16 x 64 px, ours' in output
  assert 'only b has F0 predict 32 x 64 px, ours' in output
  assert 'versions differ in jax: 1 and 2' in output


@pytest.mark.parametrize('content', [None, 'text', '{}', '[1]', '{"results": [{"model": "F0"}]}'])
def test_what_is_no_file_of_results_is_a_sentence(tmp_path, content):
  if content is not None:
    (tmp_path / 'a').write_text(content)
  with pytest.raises(ValueError, match=r'(cannot be read|is not a file that --out wrote)'):
    compare.read(tmp_path / 'a')


def test_the_command_is_noted_without_folders():
  found = machine.command(['F0', '--peer-python', '/a/b/python', '--out=/c/d.json'])
  assert found == 'python scripts/benchmark.py F0 --peer-python python --out=d.json'


# ---------------------------------------------------------------- the script


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    ([], 'name models to measure'),
    (['F0', '--tasks', 'predict,train'], "'train' is none of predict, gradient, step"),
    (['F0', '--sizes', '0'], "'0' is no number from 1 on"),
    (['F0', '--out', 'missing/a.json'], 'there is no folder missing'),
    (['F0', '--chart', 'a.txt'], 'ends neither in .png'),
  ],
)
def test_wrong_arguments(benchmark, capsys, arguments, sentence):
  with pytest.raises(SystemExit) as exit_info:
    benchmark.main(arguments)
  assert exit_info.value.code == 2
  assert sentence in capsys.readouterr().err


def test_models_that_there_are_not(benchmark, capsys, tmp_path):
  (tmp_path / 'list.json').write_text('[]')
  assert benchmark.main([str(tmp_path / 'list.json')]) == 1
  assert 'must hold the fields of a ModelSpec' in capsys.readouterr().err
  assert benchmark.main(['F9']) == 1
  assert "Error: Unknown model 'F9': did you mean" in capsys.readouterr().err
  with pytest.raises(ValueError, match='cannot be read'):
    session.read_model(str(tmp_path / 'missing.json'))


@pytest.mark.skipif(bool(importlib.util.find_spec('torch')), reason='this interpreter has the peer')
def test_a_missing_peer_is_a_sentence(benchmark, capsys, tmp_path):
  (tmp_path / 'small.json').write_text(json.dumps(SPEC))
  assert benchmark.main([str(tmp_path / 'small.json'), '--peer', 'timm']) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('Error: --peer needs torch and timm in')
  assert "No module named 't" in error


class InProcess:
  """A worker without a process of its own, which takes seconds to start."""

  MAKERS: ClassVar = {
    'benchmarking.planner': planner.Planner,
    'benchmarking.jax_worker': jax_worker.JaxWorker,
  }

  def __init__(self, module, python=None, **environment):
    self.worker = self.MAKERS[module]()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    pass

  def ask(self, what, **arguments):
    arguments = json.loads(json.dumps(arguments))
    return json.loads(json.dumps(getattr(self.worker, what)(**arguments)))

  def close(self):
    pass


def check_results(results, tasks):
  assert [(one['task'], one['contestant']) for one in results['results']] == [
    (task, 'ours') for task in tasks
  ]
  best = max(results['ceiling']['jax']['by_size'].values())
  for one in results['results']:
    assert 'failed' not in one
    assert len(one['seconds']) == 3
    np.testing.assert_allclose(one['median'], np.median(one['seconds']))
    np.testing.assert_allclose(one['share_of_ceiling'], one['flops'] / one['median'] / best)
    assert one['images_per_second'] == one['batch'] / one['median']
  assert results['versions']['jax']


def test_a_run(benchmark, info, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(planner.Planner, 'make_weights', lambda *_, **__: info['files'])
  monkeypatch.setattr(measure, 'Child', InProcess)
  monkeypatch.setattr(session, 'Child', InProcess)
  monkeypatch.setattr(serving, 'CEILING_SIZES', (64,))
  (tmp_path / 'small.json').write_text(json.dumps(SPEC))
  out, drawn = tmp_path / 'out.json', tmp_path / 'chart.svg'
  arguments = ['--tasks', 'predict', '--batches', '1,2', '--sizes', '16', '--rounds', '3']
  files = ['--out', str(out), '--markdown', str(tmp_path / 'a.md'), '--chart', str(drawn)]
  assert benchmark.main([str(tmp_path / 'small.json'), *arguments, *files]) == 0
  check_results(json.loads(out.read_text()), ['predict', 'predict'])
  assert capsys.readouterr().out.count('small') == 2
  assert '| small | predict | 2 | 16 | ours |' in (tmp_path / 'a.md').read_text()
  assert drawn.stat().st_size > 1000


@pytest.mark.slow
def test_a_run_in_processes_where_there_are_several_devices(run_script, tmp_path, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  (tmp_path / 'small.json').write_text(json.dumps(SPEC))
  out = tmp_path / 'out.json'
  arguments = ['--batches', '1', '--sizes', '16', '--rounds', '3', '--out', out]
  done = run_script('benchmark', tmp_path / 'small.json', *arguments)
  assert done.returncode == 0, done.stderr
  results = json.loads(out.read_text())
  check_results(results, measure.TASKS)
  for one in results['results']:
    assert one['peak_memory_bytes'] > one['call_memory_bytes'] >= 0


def test_an_interruption_keeps_the_file_and_leaves_no_process(tmp_path):
  command = [sys.executable, SCRIPTS / 'benchmark.py', 'F0', '--out', str(tmp_path / 'a.json')]
  environment = {**os.environ, 'PYTHONPATH': str(SCRIPTS.parent)}
  process = subprocess.Popen(
    command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
  )
  process.stderr.readline()  # something has begun
  os.killpg(process.pid, signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert 'Interrupted' in error
  assert 'Traceback' not in error
  with pytest.raises(ProcessLookupError):
    os.killpg(process.pid, 0)


@pytest.mark.skipif(not has_peer(), reason='torch and timm are not installed')
@pytest.mark.parametrize('task', measure.TASKS)
def test_timms_side(task):
  case = {'batch': 2, 'size': 32, 'task': task, 'timm_name': 'test_nfnet', 'dtype': 'bfloat16'}
  rates = {'drop_rate': 0.1, 'drop_path_rate': 0.1}
  with child.Child('benchmarking.timm_worker', PEER) as worker:
    assert worker.ask('about')['versions']['timm']
    ready = worker.ask('prepare', contestant='timm', rates=rates, **case)
    assert ready['seconds'] > 0
    with pytest.raises(child.ChildError, match="has no model 'F0'"):
      worker.ask('prepare', contestant='timm', rates=rates, **{**case, 'timm_name': 'F0'})
