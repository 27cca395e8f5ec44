"""scripts/benchmark.py itself: its arguments, and whole runs on a network of two blocks."""

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

from scripts.benchmarking import jax_worker, measure, planner, runtime_worker, serving, session

SCRIPTS = pathlib.Path(__file__).parents[3] / 'scripts'


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    ([], 'name models to measure'),
    (['F0', '--tasks', 'predict,train'], "'train' is none of predict, gradient, step"),
    (['F0', '--sizes', '0'], "'0' is no number from 1 on"),
    (['F0', '--out', 'missing/a.json'], 'there is no folder missing'),
    (['F0', '--chart', 'a.txt'], '--chart must end in .png, .svg or .pdf, got a.txt'),
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
  assert "Unknown model 'F9': did you mean" in capsys.readouterr().err
  with pytest.raises(ValueError, match='cannot be read'):
    session.read_model(str(tmp_path / 'missing.json'))


@pytest.mark.skipif(bool(importlib.util.find_spec('torch')), reason='this interpreter has the peer')
def test_a_missing_peer_is_a_sentence(benchmark, spec, capsys, tmp_path):
  (tmp_path / 'small.json').write_text(json.dumps(spec))
  assert benchmark.main([str(tmp_path / 'small.json'), '--peer', 'timm']) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('Error: --peer needs torch and timm in')
  assert "No module named 't" in error


@pytest.mark.skipif(bool(importlib.util.find_spec('openvino')), reason='it is installed')
def test_a_missing_runtime_is_a_sentence(benchmark, spec, capsys, tmp_path):
  (tmp_path / 'small.json').write_text(json.dumps(spec))
  assert benchmark.main([str(tmp_path / 'small.json'), '--runtime', 'onnx,openvino']) == 1
  error = capsys.readouterr().err.splitlines()[-1]
  assert error.startswith('Error: --runtime openvino needs openvino in')
  assert "No module named 'openvino'. Install it there, or name" in error


class InProcess:
  """A worker without a process of its own, which takes seconds to start."""

  MAKERS: ClassVar = {
    'scripts.benchmarking.planner': planner.Planner,
    'scripts.benchmarking.jax_worker': jax_worker.JaxWorker,
    'scripts.benchmarking.runtime_worker': runtime_worker.RuntimeWorker,
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


def test_a_run(benchmark, spec, info, capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(planner.Planner, 'make_weights', lambda *_, **__: info['files'])
  monkeypatch.setattr(measure, 'Child', InProcess)
  monkeypatch.setattr(session, 'Child', InProcess)
  monkeypatch.setattr(serving, 'CEILING_SIZES', (64,))
  (tmp_path / 'small.json').write_text(json.dumps(spec))
  out, drawn = tmp_path / 'out.json', tmp_path / 'chart.svg'
  arguments = ['--tasks', 'predict', '--batches', '1,2', '--sizes', '16', '--rounds', '3']
  files = ['--out', str(out), '--markdown', str(tmp_path / 'a.md'), '--chart', str(drawn)]
  assert benchmark.main([str(tmp_path / 'small.json'), *arguments, *files]) == 0
  check_results(json.loads(out.read_text()), ['predict', 'predict'])
  assert capsys.readouterr().out.count('small') == 2
  assert '| small | predict | 2 | 16 | ours |' in (tmp_path / 'a.md').read_text()
  assert drawn.stat().st_size > 1000


@pytest.mark.slow
def test_a_run_in_processes_where_there_are_several_devices(
  run_script, spec, tmp_path, monkeypatch
):
  monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=2')
  (tmp_path / 'small.json').write_text(json.dumps(spec))
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
  # What a shell runs in the background ignores interruptions, and so would its children.
  handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    process = subprocess.Popen(
      command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
  finally:
    signal.signal(signal.SIGINT, handler)
  process.stderr.readline()  # something has begun
  os.killpg(process.pid, signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130
  assert error.splitlines()[-1].startswith('Error: interrupted.')
  assert 'Traceback' not in error
  with pytest.raises(ProcessLookupError):
    os.killpg(process.pid, 0)
