"""Choosing a source."""

import pytest

from configs import base
from experiments.data import DataSettings, sources
from experiments.runtime.errors import DataError


def _settings(**fields):
  config = base.get_config()
  config.data.update(fields)
  return DataSettings.from_config(config)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'source': 'folder', 'dir': ''}, 'does not exist'),
    ({'source': 'folder', 'dir': 'not/there'}, 'not/there'),
    ({'source': 'folder', 'dir': '~nobody-of-this-name/pictures'}, '~nobody-of-this-name/pictures'),
    (
      {'source': 'folder', 'dir': '.', 'test_split': 'holdout'},
      "no folder 'holdout'; set --config.data.te",
    ),
    ({'source': 'synthetic'}, 'data.num_examples'),
    ({'source': 'tfds'}, 'set --config.data.name'),
  ],
)
def test_bad_choice_is_one_sentence(fields, words):
  with pytest.raises(DataError, match=words):
    sources.open_sources(_settings(**fields))
