"""Folders of pictures: layouts, classes, splits."""

import os
import shutil

import cv2
import numpy as np
import pytest

from configs import base
from experiments.data import DataSettings, sources
from experiments.data.sources import packed_folder
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


def test_what_is_left_out_is_one_warning_for_a_part(tmp_path, caplog):
  _folder_with(tmp_path, ['a/0.png', 'a/1.png', 'b/0.png', 'b/1.png', 'c/._0.png', 'loose.png'])
  for name in ('a/.DS_Store', 'a/x.heic', 'b/y.heic'):
    (tmp_path / name).write_bytes(b'x')
  for i in range(50):
    os.symlink('/etc/hostname', tmp_path / f'a/link{i}.png')
  for _ in range(3):  # a run lists its folder several times
    sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  (record,) = caplog.records
  assert record.getMessage().startswith(f'{tmp_path}: skipped 55: 50 whose link leads out')
  for words in ('2 of another ending (a/x.heic, b/y.heic)', '1 hidden (c/._0.png)'):
    assert words in record.getMessage()
  assert '1 without pictures (c), 1 outside the class folders (loose.png)' in record.getMessage()


@pytest.mark.parametrize('ending', ['.tif', '.TIFF', '.jfif', '.gif', '.ppm'])
def test_folders_hold_every_format_that_is_decoded(tmp_path, ending):
  for kind in 'ab':
    for i in range(2):
      (tmp_path / kind).mkdir(exist_ok=True)
      (tmp_path / kind / f'{i}{ending}').write_bytes(b'x')
  train, test = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert (len(train), len(test)) == (2, 2)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path):
  _folder_with(tmp_path, ['train/a/0.png', 'train/b/0.png', 'test/a/0.png'])
  train, _ = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  (tmp_path / 'train/b/0.png').unlink()
  os.mkfifo(tmp_path / 'train/b/0.png')
  with pytest.raises(OSError, match='it is a pipe'):
    train[1]


@pytest.mark.parametrize(
  ('train_name', 'test_name'),
  [('train', 'val'), ('train', 'valid'), ('Train', 'Test'), ('TRAINING', 'validation')],
)
@pytest.mark.parametrize('pack', [False, True])
def test_usual_names_of_the_parts(tmp_path, caplog, train_name, test_name, pack):
  root = tmp_path / 'root'
  _folder_with(root, [f'{train_name}/{kind}/{i}.png' for kind in 'ab' for i in range(9)])
  _folder_with(root, [f'{test_name}/{kind}/0.png' for kind in 'ba'])
  if pack:
    packed_folder.pack(str(root), str(tmp_path / 'packed'))
    root = tmp_path / 'packed'
  train, test = sources.open_sources(_settings(source='folder', dir=str(root)))
  assert train.class_names == ('a', 'b')
  assert (len(train), _names(test)) == (18, [f'{test_name}/a/0.png', f'{test_name}/b/0.png'])
  assert f'trains on {train_name!r} and tests on {test_name!r}' in caplog.text


def test_the_configured_part_goes_first_and_the_unused_is_named(tmp_path, caplog):
  parts = ('train', 'val', 'test')
  _folder_with(tmp_path, [f'{part}/{kind}/0.png' for part in parts for kind in 'ab'])
  _, test = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert _names(test) == ['test/a/0.png', 'test/b/0.png']
  assert "not used: 'val'" in caplog.text
  _, test = sources.open_sources(_settings(source='folder', dir=str(tmp_path), test_split='val'))
  assert _names(test) == ['val/a/0.png', 'val/b/0.png']


def test_classes_may_be_called_as_the_parts_are(tmp_path):
  _folder_with(
    tmp_path, [f'{kind}/{i}.png' for kind in ('train', 'bus', 'valid') for i in range(2)]
  )
  with pytest.raises(DataError, match="folders 'train' and 'valid', but 'train' holds no class"):
    sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  shutil.rmtree(tmp_path / 'valid')
  train, _ = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert train.class_names == ('bus', 'train')


def test_class_names_match_whatever_their_normal_form(tmp_path):
  composed, decomposed = 'caf\u00e9', 'cafe\u0301'
  files = [f'train/{composed}/0.png', f'train/{decomposed}/1.png', 'train/tea/0.png']
  _folder_with(tmp_path, [*files, f'test/{decomposed}/0.png'])
  train, test = sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert train.class_names == (composed, 'tea')
  assert [train[i]['label'] for i in range(3)] == [0, 0, 1]
  assert test[0]['label'] == 0


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
    (['zip/a/1.png', 'zip/b/1.png', '__MACOSX/a/1.png'], r'2 folders with pictures; give \S+/zip '),
    (['train/zip/a/1.png', 'train/zip/b/1.png'], r'give \S+/train/zip instead'),
    (['train/a/1.png', 'train/b/1.png', 'val/a/1.png', 'valid/a/1.png'], "'val' and 'valid'; set"),
    (['Train/1.png', 'Test/1.png'], "'Train' holds no class folders"),
    (['val/a/1.png', 'val/b/1.png'], "a folder 'val' but no 'train'"),
  ],
)
def test_bad_folder_is_one_sentence(tmp_path, files, words):
  _folder_with(tmp_path, files)
  with pytest.raises(DataError, match=words) as caught:
    sources.open_sources(_settings(source='folder', dir=str(tmp_path)))
  assert '\n' not in str(caught.value)
