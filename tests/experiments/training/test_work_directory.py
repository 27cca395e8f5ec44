"""Whether a run may go on in a directory."""

import pytest

from configs import base
from experiments.runtime.errors import CheckpointError
from experiments.training import work_directory


def test_a_run_goes_on_if_it_computes_the_same(tmp_path):
  config = base.get_config().to_dict()
  work_directory.claim(tmp_path / 'run', config)
  work_directory.claim(tmp_path / 'run', {**config, 'log_every_steps': 7})
  other = {**config, 'seed': 1, 'data': {**config['data'], 'num_threads': 1, 'flip': False}}
  with pytest.raises(CheckpointError, match=r'\(data.flip: True -> False; seed: 0 -> 1\)'):
    work_directory.claim(tmp_path / 'run', other)


def test_a_config_that_cannot_be_read_is_one_sentence(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(CheckpointError, match='is not readable as JSON'):
    work_directory.claim(tmp_path, {})


def test_every_field_that_may_differ_is_one():
  for path in work_directory.NEUTRAL_FIELDS:
    node = base.get_config()
    for name in path.split('.'):
      assert name in node, path
      node = node[name]
