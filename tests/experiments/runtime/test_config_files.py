"""Configs by name and by file."""

import pathlib

import pytest

from experiments.runtime import config_files
from experiments.runtime.errors import ConfigError

ROOT = pathlib.Path(__file__).parents[3]


def test_a_recipe_is_found_from_any_folder(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  assert config_files.find('digits') == f'{ROOT}/configs/digits.py'
  assert config_files.find('nfnet_imagenet:F3') == f'{ROOT}/configs/nfnet_imagenet.py:F3'
  assert config_files.fields() == f'{ROOT}/configs/base.py'
  monkeypatch.chdir(ROOT)
  assert config_files.fields() == 'configs/base.py'


def test_a_file_stays_as_it_was_given(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  for name in ('digits.py', 'digits'):
    pathlib.Path(name).touch()
  assert config_files.find('digits.py') == 'digits.py'
  assert config_files.find('./digits.py:a:b') == './digits.py:a:b'
  assert config_files.find('digits') == f'{ROOT}/configs/digits.py'  # the recipe


@pytest.mark.parametrize(
  ('text', 'end'),
  [
    ('digit', r'Did you mean --config=digits\?$'),
    ('configs/finetun.py', r'Did you mean --config=finetune\?$'),
    ('base', r'small_images\.$'),  # a table of fields, without data
    ('', r'small_images\.$'),
  ],
)
def test_neither(monkeypatch, tmp_path, text, end):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(ConfigError, match=f'there is no config file {text}: .*{end}'):
    config_files.find(text)
