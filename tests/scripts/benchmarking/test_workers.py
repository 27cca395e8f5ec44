"""The tasks as this library and timm do them, and their operations.

The tests of timm's side run where this interpreter has torch and timm, or the one that the variable
NFNETS_PEER_PYTHON names.
"""

import functools
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfnets import execution, weights
from scripts.benchmarking import child, jax_worker, measure, planner, runtime_worker

PEER = os.environ.get('NFNETS_PEER_PYTHON', sys.executable)


def has_peer():
  code = 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "timm"))))'
  return not subprocess.run([PEER, '-c', code], check=False).returncode


def test_the_planner_describes(info):
  assert (info['train_size'], info['test_size'], info['drop_rate']) == (16, 24, 0.1)
  assert info['parameters'] > 16 * 1000  # at least the classifier's


@pytest.fixture
def build(model, info):
  """(task, contestant, dtype) -> a worker and what it would time, for the small network."""

  def make(task, contestant='ours', dtype='float32'):
    worker = jax_worker.JaxWorker()
    call = worker.build(
      contestant=contestant, model=model, files=info['files'], task=task, batch=2, size=16,
      dtype=dtype,
    )  # fmt: skip
    return worker, call

  return make


def test_the_gradient_reaches_every_parameter(build):
  _, call = build('gradient')
  gradients, (metrics, _) = call()
  assert np.isfinite(metrics['loss'])
  # With the skip gains at their start, the branches would have none.
  assert all(np.any(g) for leaves in gradients.values() for g in leaves.values())


def test_all_contestants_predict_the_same(build):
  logits = {}
  for name in ('ours', 'unfolded', 'published'):
    worker, call = build('predict', name)
    with worker._context:
      logits[name] = np.asarray(call())
  assert logits['published'].shape == (2, 1000)
  assert np.std(logits['published']) > 5e-3
  for name in ('ours', 'unfolded'):
    np.testing.assert_allclose(logits[name], logits['published'], rtol=0, atol=1e-6)
  half = np.asarray(build('predict', dtype='bfloat16')[1]())
  difference = np.abs(half - logits['published']).max()
  assert 1e-6 < difference < 0.05 * np.abs(logits['published']).max()


@pytest.mark.parametrize('name', runtime_worker.PACKAGES)
def test_runtimes_predict_the_same(name, build, info):
  pytest.importorskip('onnx')
  pytest.importorskip(runtime_worker.PACKAGES[name])
  files = planner.Planner().make_onnx(info['files'], size=16)
  case = {'contestant': name, 'files': files, 'task': 'predict', 'batch': 2, 'size': 16}
  worker = runtime_worker.RuntimeWorker()
  got = worker.build(**case, dtype='float32')()
  np.testing.assert_allclose(got, build('predict')[1](), rtol=0, atol=1e-6)
  assert set(worker.about(name)['versions']) == {'python', runtime_worker.PACKAGES[name]}
  with pytest.raises(ValueError, match='predicts in float32, asked for: predict in bfloat16'):
    worker.build(**case, dtype='bfloat16')


def test_batch_normalisation_is_folded(tmp_path):
  fields = {'width': [16], 'depth': [1], 'stride': [2], 'stem': [[3, 2, 8]], 'family': 'BN_ResNet'}
  model = {'variant': 'custom', 'spec': fields}
  files = planner.Planner().make_weights(model, str(tmp_path))
  case = {'model': model, 'files': files, 'task': 'predict', 'batch': 1, 'size': 32}
  folded, whole = (
    jax_worker.JaxWorker().build(**case, contestant=name, dtype='float32')()
    for name in ('ours', 'unfolded')
  )
  np.testing.assert_allclose(folded, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
  assert weights.read_metadata(files['folded_weights'])['spec']['folded']


def test_operations_of_a_network_by_hand(model):
  stem = 8 * 8 * 8 * 27
  # 1x1 to 4 channels, two 3x3 in a group of 4, 1x1 to 8; the two products of the attention.
  first = 8 * 8 * (8 * 4 + 2 * 4 * 36 + 4 * 8) + 2 * 8 * 4
  # The same to 8, in two groups of 4, to 16, of which half at half the size, and the shortcut.
  second = 8 * 8 * 8 * 8 + 4 * 4 * (2 * 8 * 36 + 8 * 16 + 8 * 16) + 2 * 16 * 8
  final = 4 * 4 * 16 * 32
  forward = stem + first + second + final + 32 * 1000
  count = functools.partial(planner.Planner().count_flops, model, batch=2, size=16)
  assert count('predict')['flops'] == 2 * 2 * forward
  # Each product has a gradient by either factor, but nobody needs that by the images.
  for task in ('gradient', 'step'):
    assert count(task)['flops'] == 2 * 2 * (3 * forward - stem)


@pytest.mark.skipif(not has_peer(), reason='torch and timm are not installed')
@pytest.mark.parametrize('task', measure.TASKS)
def test_timms_side(task):
  case = {'batch': 2, 'size': 32, 'task': task, 'timm_name': 'test_nfnet', 'dtype': 'bfloat16'}
  rates = {'drop_rate': 0.1, 'drop_path_rate': 0.1}
  with child.Child('scripts.benchmarking.timm_worker', PEER) as worker:
    assert worker.ask('about')['versions']['timm']
    ready = worker.ask('prepare', contestant='timm', rates=rates, **case)
    assert ready['seconds'] > 0
    with pytest.raises(child.ChildError, match="has no model 'F0'"):
      worker.ask('prepare', contestant='timm', rates=rates, **{**case, 'timm_name': 'F0'})


@pytest.mark.parametrize(('contestant', 'block'), [('ours', 4), ('published', 1)])
def test_the_published_step_takes_its_images_as_they_are(monkeypatch, contestant, block):
  blocks = []
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  monkeypatch.setattr(jax_worker, '_load', lambda *args: (None, None, None))
  monkeypatch.setattr(
    jax_worker.JaxWorker, '_step', lambda self, run, *args: blocks.append(run.layout.block)
  )
  with execution.strategy():
    worker = jax_worker.JaxWorker()
    worker.build(
      contestant=contestant, model={'variant': 'F0'}, files={'weights': ''}, task='step', batch=2,
      size=64, dtype='bfloat16',
    )  # fmt: skip
    worker._context.close()
  assert blocks == [block]
