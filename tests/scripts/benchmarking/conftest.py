"""What the tests of scripts/benchmark.py and its parts share."""

import pytest

from scripts.benchmarking import planner


@pytest.fixture(scope='session')
def spec():
  """The fields of a network of two blocks, as its JSON file has them."""
  return {
    'width': [8, 16],
    'depth': [1, 1],
    'stride': [1, 2],
    'group_width': 4,
    'stem': [[3, 2, 8]],
    'drop_rate': 0.1,
    'train_size': 16,
    'test_size': 24,
  }


@pytest.fixture(scope='session')
def model(spec):
  """The same as `config.model` of a run."""
  return {'variant': 'custom', 'spec': spec}


@pytest.fixture(scope='session')
def info(model, tmp_path_factory):
  """What the planner says of the small network, with the files of its weights."""
  plans = planner.Planner()
  files = plans.make_weights(model, str(tmp_path_factory.mktemp('weights')))
  return {**plans.describe(model), 'files': files}


@pytest.fixture(scope='session')
def row():
  """(contestant, median, **changes) -> a row of results."""

  def make(contestant='ours', median=0.5, **changes):
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

  return make


@pytest.fixture
def benchmark(load_script):
  """The script as a module."""
  return load_script('benchmark')
