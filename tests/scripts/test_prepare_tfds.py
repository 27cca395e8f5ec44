"""scripts/prepare_tfds.py without TensorFlow; what it calls has tests of its own."""

import importlib.util

import pytest


@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None, reason='has TensorFlow')
def test_errors_are_one_sentence(run_script, tmp_path):
  done = run_script('prepare_tfds', '--tars', tmp_path, '--out', tmp_path / 'out')
  assert done.returncode == 1
  assert done.stderr.startswith('Error: preparing data needs the package tensorflow')
  assert run_script('prepare_tfds', '--tars', tmp_path).returncode == 2
