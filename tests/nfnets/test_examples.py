"""The examples in the docstrings of the main names: they run, or at least name what exists."""

import ast
import inspect
import re
import textwrap

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nfnets

SPEC = nfnets.ModelSpec(width=(16,), depth=(1,), stride=(1,), group_width=8, stem=((3, 2, 8),))
NAMES = (
  'Classifier',
  'ModelSpec',
  'NFNet',
  'WSConv2D',
  'adaptive_grad_clip',
  'create_model',
  'deploy.fold',
  'list_models',
  'load_pretrained',
  'optim.nfnet_sgd',
  'signal_propagation.measure',
  'weight_standardized',
  'weights.save',
)


def find(name):
  value = nfnets
  for part in name.split('.'):
    value = getattr(value, part)
  return value


def example(name):
  """The first indented block between empty lines."""
  text = f'{inspect.cleandoc(find(name).__doc__)}\n'
  found = re.search(r'\n\n((?:    .*\n|\n)*    .*\n)(?=\n|\Z)', text)
  assert found, f'{name} has no example'
  return textwrap.dedent(found[1])


@pytest.fixture(scope='module')
def names_in_use():
  """What the examples take for granted."""

  def forward(images):
    return nfnets.create_model(SPEC, 2)(images, is_training=False)['logits']

  images = jnp.zeros((1, 16, 16, 3))
  params = jax.jit(hk.transform(forward).init)(jax.random.key(0), images)
  known = {'nfnets': nfnets, 'hk': hk, 'jax': jax, 'jnp': jnp, 'np': np, 'optax': optax}
  return {**known, 'forward': forward, 'images': images, 'params': params, 'spec': SPEC}


@pytest.mark.parametrize('name', NAMES)
def test_the_example_of(name, names_in_use, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  code = example(name)
  if 'pretrained(' in code and 'list_models' not in code:  # it would download weights
    for node in ast.walk(ast.parse(code)):
      if isinstance(node, ast.Attribute) and ast.unparse(node).startswith('nfnets.'):
        find(ast.unparse(node).removeprefix('nfnets.'))
  else:
    exec(compile(code, name, 'exec'), dict(names_in_use))
