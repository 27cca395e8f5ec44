"""Where a program may write, and where it may not."""

import os
import pathlib

import pytest

from experiments.runtime import output_files
from experiments.runtime.errors import ConfigError


def test_a_new_file_and_one_that_is_replaced(tmp_path):
  path = tmp_path / 'a.PNG'
  assert output_files.require(str(path), '--out', suffixes=('.png',)) == path
  path.write_bytes(b'')
  assert output_files.require(path, '--out', inputs=['F0', None, tmp_path / 'b.png']) == path
  assert output_files.require('a.txt', '--out') == pathlib.Path('a.txt')


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('a.txt', r'^--out must end in \.png or \.svg, got .*a\.txt'),
    ('a', r'^--out must end in \.png or \.svg'),
    ('missing/a.png', r'^there is no folder .*missing to write a\.png to'),
    ('folder.png', r'^--out=.*folder\.png is a folder'),
  ],
)
def test_what_cannot_be_written(tmp_path, name, sentence):
  (tmp_path / 'folder.png').mkdir()
  with pytest.raises(ConfigError, match=sentence):
    output_files.require(tmp_path / name, '--out', suffixes=('.png', '.svg'))


@pytest.mark.skipif(os.geteuid() == 0, reason='nothing is protected from this user')
def test_a_folder_that_is_protected(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(ConfigError, match='is write-protected'):
    output_files.require(tmp_path / 'a.png', '--out')


def test_a_remote_address():
  with pytest.raises(ConfigError, match=r'^--out=gs://bucket/a.png is a remote address'):
    output_files.require('gs://bucket/a.png', '--out')


@pytest.mark.parametrize('other', ['a.png', './a.png', 'link.png', 'hard.png'])
def test_an_input_is_never_written_over(tmp_path, monkeypatch, other):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('a.png').write_bytes(b'picture')
  pathlib.Path('link.png').symlink_to('a.png')
  os.link('a.png', 'hard.png')
  with pytest.raises(ConfigError, match=rf'^--out=a.png would write over {other}, which'):
    output_files.require('a.png', '--out', inputs=['b.png', other])


def test_two_outputs_are_two_files(tmp_path):
  with pytest.raises(ConfigError, match='would write over'):
    output_files.require(tmp_path / 'new', '--a', inputs=[tmp_path / '.' / 'new'])
