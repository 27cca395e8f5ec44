"""Folders of pictures: layouts, classes, splits."""

import os

import cv2
import numpy as np
import pytest

from configs import base
from experiments.data import DataSettings, sources
from experiments.runtime.errors import DataError


def _settings(**fields):
  config = base.get_config()
  config.data.update(fields)
  return DataSettings.from_config(config)


def _write(path, value=0, size=(6, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def _names(source):
  return [source[i]['name'] for i in range(len(source))]


def test_folder_with_a_test_part(tmp_path):
  _write(tmp_path / 'train/dog/a.png', 10)
  _write(tmp_path / 'train/cat/deep/er/b.JPEG', 20)
  _write(tmp_path / 'train/cat/c.webp', 30)
  _write(tmp_path / 'test/dog/d.bmp', 40)
  (tmp_path / 'train/cat/notes.txt').write_text('no picture')
  (tmp_path / 'train/.hidden').mkdir()
  train, test = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert train.class_names == test.class_names == ('cat', 'dog')
  assert [(train[i]['name'], train[i]['label']) for i in range(3)] == [
    ('train/cat/c.webp', 0),
    ('train/cat/deep/er/b.JPEG', 0),
    ('train/dog/a.png', 1),
  ]
  assert test[0] == {
    'image': (tmp_path / 'test/dog/d.bmp').read_bytes(),
    'label': 1,
    'name': 'test/dog/d.bmp',
  }
  assert len(test) == 1


@pytest.mark.parametrize('top', ['', 'train/'])
def test_folder_without_a_test_part_holds_some_out(tmp_path, top):
  for kind, count in (('a', 20), ('b', 10), ('c', 2), ('d', 1)):
    for i in range(count):
      _write(tmp_path / f'{top}{kind}/{i}.png')
  settings = _settings(source='folder', dir=str(tmp_path), held_out_fraction=0.3)
  train, test = sources.open_sources(settings)
  assert not set(_names(train)) & set(_names(test))
  assert len(train) + len(test) == 33
  counts = np.bincount([test[i]['label'] for i in range(len(test))], minlength=4)
  assert counts.tolist() == [6, 3, 1, 0]  # the only picture of d is kept for training
  assert _names(sources.open_sources(settings)[1]) == _names(test)
  # Chosen by hash: neither the first nor the last names of the class.
  held_out = {int(name.rpartition('/')[2][:-4]) for name in _names(test)[:6]}
  assert held_out not in (set(range(6)), set(range(14, 20)))


def test_links_out_of_the_folder_are_left_out(tmp_path, caplog):
  root, outside = tmp_path / 'root', tmp_path / 'outside'
  for kind in 'ab':
    for i in range(2):
      _write(root / kind / f'{i}.png')
  _write(outside / 'secret.png')
  os.symlink(outside / 'secret.png', root / 'a/link.png')
  os.symlink(outside, root / 'c')
  os.symlink(root / 'b/0.png', root / 'a/inner.png')
  os.symlink(root, root / 'a/loop')
  with caplog.at_level('WARNING'):
    train, test = sources.open_sources(_settings(source='folder', dir=str(root)))
  names = sorted(_names(train) + _names(test))
  assert names == ['a/0.png', 'a/1.png', 'a/inner.png', 'b/0.png', 'b/1.png']
  assert 'link.png' in caplog.text
  assert 'leads out' in caplog.text


def _folder_with(tmp_path, files):
  for name in files:
    _write(tmp_path / name)
  return tmp_path


@pytest.mark.parametrize(
  ('files', 'words'),
  [
    ([], 'no class folders'),
    (['a.png', 'b.png'], 'no class folders'),
    (['train/a/1.png', 'train/a/2.png'], "only the class 'a'"),
    (['test/a/1.png', 'test/b/1.png'], "no 'train'"),
    (['train/a/1.png', 'train/b/1.png', 'test/c/1.png'], "class 'c'"),
    (['a/1.png', 'b/1.png'], 'no pictures to test on'),
  ],
)
def test_bad_folder_is_one_sentence(tmp_path, files, words):
  _folder_with(tmp_path, files)
  with pytest.raises(DataError, match=words) as caught:
    sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize('fraction', [0.0, 1.0])
def test_held_out_fraction_is_checked(tmp_path, fraction):
  _folder_with(tmp_path, ['a/1.png', 'b/1.png'])
  settings = _settings(source='folder', dir=str(tmp_path), held_out_fraction=fraction)
  with pytest.raises(DataError, match='held_out_fraction'):
    sources.open_sources(settings)
