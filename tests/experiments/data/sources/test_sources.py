"""Choosing a source."""

import dataclasses

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


def test_data_are_opened_once_within_a_run(tmp_path):
  for name in ('a/1.png', 'a/2.png', 'b/1.png', 'b/2.png'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  settings = _settings(source='folder', dir=str(tmp_path))
  with sources.kept_open():
    train, test = sources.open_sources(settings)
    (tmp_path / 'a/3.png').touch()
    again = sources.open_sources(dataclasses.replace(settings, image_size=99, crop='none'))
    assert again[0] is train
    assert again[1] is test
    other = sources.open_sources(dataclasses.replace(settings, held_out_fraction=0.4))
    assert len(other[0]) + len(other[1]) == 5
  assert sum(map(len, sources.open_sources(settings))) == 5
  synthetic = _settings(source='synthetic', num_examples=3, image_size=8)
  with sources.kept_open():
    sizes = [
      sources.open_sources(dataclasses.replace(synthetic, image_size=size))[0][0]['image'].shape
      for size in (8, 9)
    ]
  assert sizes == [(8, 8, 3), (9, 9, 3)]
