"""What many tests share: the golden numbers, and the recipe of the parameters they belong to."""

import gzip
import importlib.util
import json
import os
import pathlib
import signal
import tempfile

import haiku as hk
import jax
import numpy as np
import pytest

# What a shell starts in the background ignores Ctrl-C, and under nohup the end of its terminal too;
# so would the programs that tests start.
for _signal, _usual in (
  (signal.SIGINT, signal.default_int_handler),
  (signal.SIGHUP, signal.SIG_DFL),
):
  if signal.getsignal(_signal) is signal.SIG_IGN:
    signal.signal(_signal, _usual)

# Downloads and compiled programs of the tests, and of programs that they start, stay among them.
_CACHE = tempfile.TemporaryDirectory(prefix='nfnets-tests-')
os.environ['NFNETS_CACHE'] = _CACHE.name

GOLDEN = pathlib.Path(__file__).parent / 'golden'

_spec = importlib.util.spec_from_file_location('recipe', GOLDEN / 'recipe.py')
_recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_recipe)


@pytest.fixture(scope='session')
def recipe():
  """The module that makes the golden numbers' parameters and images."""
  return _recipe


@pytest.fixture(scope='session')
def trees():
  """'<family>/<variant>' -> parameter count, size and tree of shapes."""
  return json.loads(gzip.decompress((GOLDEN / 'trees.json.gz').read_bytes()))


@pytest.fixture(scope='session')
def golden():
  """Name of an .npz file -> its arrays, each file read once."""
  files = {}

  def load(name: str) -> dict[str, np.ndarray]:
    if name not in files:
      with np.load(GOLDEN / f'{name}.npz') as archive:
        files[name] = dict(archive)
    return files[name]

  return load


@pytest.fixture(scope='session')
def recipe_params():
  """(network function, images) -> recipe parameters of that network."""

  def make(network, images):
    shapes = jax.eval_shape(hk.transform(network).init, jax.random.key(0), images)
    return _recipe.params({m: {n: a.shape for n, a in p.items()} for m, p in shapes.items()})

  return make
