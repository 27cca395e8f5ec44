"""Remote addresses do not become local folders."""

import pathlib

import pytest
from small_batches import make_settings

from experiments import data
from experiments.runtime import local_paths
from experiments.runtime.errors import ConfigError
from experiments.training import initial_weights


@pytest.mark.parametrize('path', ['gs://bucket/run', 's3://b', 'file:///tmp/run', 'hdfs:/run'])
def test_an_address_is_refused_and_names_its_flag(path):
  with pytest.raises(ConfigError, match=rf'^--workdir={path} is a remote address'):
    local_paths.require(path, '--workdir')


@pytest.mark.parametrize('path', ['runs/a', '/tmp/a:b', '~/a', 'a', 'runs/gs://a', ''])
def test_a_path_is_one(path):
  assert local_paths.require(path, '--workdir') == pathlib.Path(path)


def test_pictures_and_weights_at_an_address_are_refused():
  with pytest.raises(ConfigError, match=r'^--config.data.dir=gs://pictures is a remote address'):
    data.describe(make_settings(source='folder', dir='gs://pictures'))
  with pytest.raises(ConfigError, match=r'gs://weights.safetensors is a remote address'):
    initial_weights.find_spec('gs://weights.safetensors')


def test_the_program_refuses_an_address_before_anything_is_made(train):
  output = train('gs://bucket/run', code=1)
  assert output.startswith('Error: --workdir=gs://bucket/run is a remote address')
  assert not pathlib.Path('gs:').exists()
