import io
import json
import os
import pathlib
import pickle
import shutil
import sys

import cv2
import numpy as np
import pytest
from sklearn import datasets

from configs import base
from experiments.data.sources import in_memory
from experiments.runtime.errors import DataError


def _config(**fields):
  config = base.get_config()
  config.data.update(fields)
  return config


def _write(path, value=0, size=(6, 8)):
  path.parent.mkdir(parents=True, exist_ok=True)
  cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def _names(source):
  return [source[i]['name'] for i in range(len(source))]


# ---------------------------------------------------------------- digits


def test_digits_are_all_there_once():
  train, test = in_memory.open_sources(_config(source='digits'))
  assert (len(train), len(test)) == (1437, 360)
  assert train.class_names == tuple('0123456789')
  bunch = datasets.load_digits()
  examples = [part[i] for part in (train, test) for i in range(len(part))]
  places = [int(example['name'][7:-1]) for example in examples]
  assert sorted(places) == list(range(1797))
  for place, example in zip(places, examples, strict=True):
    assert example['label'] == bunch.target[place]
    assert example['image'].shape == (8, 8, 3)
    assert example['image'].dtype == np.uint8
    np.testing.assert_allclose(
      example['image'][..., 1] / 255 * 16, bunch.images[place], atol=0.5 * 16 / 255 + 1e-9
    )


def test_digits_split_is_stratified_and_constant():
  (_, first), (_, second) = (in_memory.open_sources(_config(source='digits')) for _ in range(2))
  assert _names(first) == _names(second)
  counts = np.bincount([first[i]['label'] for i in range(len(first))])
  assert counts.min() >= 34
  assert counts.max() <= 38


# ---------------------------------------------------------------- folder


def test_folder_with_a_test_part(tmp_path):
  _write(tmp_path / 'train/dog/a.png', 10)
  _write(tmp_path / 'train/cat/deep/er/b.JPEG', 20)
  _write(tmp_path / 'train/cat/c.webp', 30)
  _write(tmp_path / 'test/dog/d.bmp', 40)
  (tmp_path / 'train/cat/notes.txt').write_text('no picture')
  (tmp_path / 'train/.hidden').mkdir()
  train, test = in_memory.open_sources(_config(source='folder', dir=str(tmp_path)))
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
  config = _config(source='folder', dir=str(tmp_path), held_out_fraction=0.3)
  train, test = in_memory.open_sources(config)
  assert not set(_names(train)) & set(_names(test))
  assert len(train) + len(test) == 33
  counts = np.bincount([test[i]['label'] for i in range(len(test))], minlength=4)
  assert counts.tolist() == [6, 3, 1, 0]  # the only picture of d is kept for training
  assert _names(in_memory.open_sources(config)[1]) == _names(test)
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
    train, test = in_memory.open_sources(_config(source='folder', dir=str(root)))
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
    in_memory.open_sources(_config(source='folder', dir=str(tmp_path)))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'source': 'folder', 'dir': ''}, 'does not exist'),
    ({'source': 'folder', 'dir': 'not/there'}, 'not/there'),
    ({'source': 'webdataset'}, 'unknown data.source'),
    ({'source': 'synthetic'}, 'data.num_examples'),
    ({'source': 'tfds'}, 'set data.name'),
  ],
)
def test_bad_choice_is_one_sentence(fields, words):
  with pytest.raises(DataError, match=words):
    in_memory.open_sources(_config(**fields))


@pytest.mark.parametrize('fraction', [0.0, 1.0])
def test_held_out_fraction_is_checked(tmp_path, fraction):
  _folder_with(tmp_path, ['a/1.png', 'b/1.png'])
  config = _config(source='folder', dir=str(tmp_path), held_out_fraction=fraction)
  with pytest.raises(DataError, match='held_out_fraction'):
    in_memory.open_sources(config)


# ---------------------------------------------------------------- synthetic


def test_synthetic_is_a_function_of_the_index():
  config = _config(source='synthetic', num_examples=50, image_size=16, num_classes=7)
  (train, test), (again, _) = in_memory.open_sources(config), in_memory.open_sources(config)
  assert (len(train), len(test), len(train.class_names)) == (50, 5, 7)
  np.testing.assert_array_equal(train[3]['image'], again[3]['image'])
  assert train[3]['image'].shape == (16, 16, 3)
  assert train[9]['label'] == 2
  pictures = [train[i]['image'] for i in range(5)] + [test[i]['image'] for i in range(5)]
  assert len({picture.tobytes() for picture in pictures}) == 10
  assert abs(np.mean(pictures) - 127.5) < 3


# ---------------------------------------------------------------- TFDS


@pytest.fixture(scope='module')
def tfds_dir(tmp_path_factory):
  """A data set of six and three pictures, written as TFDS writes array_record."""
  import tensorflow_datasets as tfds
  from array_record.python import array_record_module
  from tensorflow_datasets.core import example_serializer

  root = tmp_path_factory.mktemp('tfds')
  place = root / 'tiny/1.0.0'
  place.mkdir(parents=True)
  features = tfds.features.FeaturesDict(
    {
      'file_name': tfds.features.Text(),
      'image': tfds.features.Image(shape=(None, None, 3)),
      'label': tfds.features.ClassLabel(names=['cat', 'dog', 'owl']),
    }
  )
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  splits = []
  for split, count in (('train', 6), ('test', 3)):
    file = place / f'tiny-{split}.array_record-00000-of-00001'
    writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
    for i in range(count):
      _, png = cv2.imencode('.png', np.full((4, 5, 3), i, np.uint8))
      example = {'file_name': f'{split}{i}', 'image': io.BytesIO(png.tobytes()), 'label': i % 3}
      writer.write(serializer.serialize_example(features.encode_example(example)))
    writer.close()
    template = '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
    splits.append({'name': split, 'shardLengths': [str(count)], 'filepathTemplate': template})
  features.save_config(str(place))
  info = {'name': 'tiny', 'version': '1.0.0', 'fileFormat': 'array_record', 'splits': splits}
  (place / 'dataset_info.json').write_text(json.dumps(info))
  return root


def _tfds_config(tfds_dir, **fields):
  return _config(**{'source': 'tfds', 'name': 'tiny', 'dir': str(tfds_dir), **fields})


def test_tfds_is_read_without_tensorflow(tfds_dir):
  train, test = in_memory.open_sources(_tfds_config(tfds_dir))
  assert (len(train), len(test)) == (6, 3)
  assert train.class_names == ('cat', 'dog', 'owl')
  example = pickle.loads(pickle.dumps(train))[4]  # as a worker process gets it
  assert (example['label'], example['name']) == (1, 'train4')
  pixels = cv2.imdecode(np.frombuffer(example['image'], np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_array_equal(pixels, np.full((4, 5, 3), 4, np.uint8))
  assert 'tensorflow' not in sys.modules


def test_tfds_takes_split_expressions(tfds_dir):
  config = _tfds_config(tfds_dir, train_split='train[2:]', test_split='train[:2]')
  train, test = in_memory.open_sources(config)
  assert _names(train) == ['train2', 'train3', 'train4', 'train5']
  assert _names(test) == ['train0', 'train1']


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'name': 'tyni'}, "knows no data set 'tyni'"),
    ({'name': 'tiny:::'}, 'is no TFDS name'),
    ({'name': 'mnist'}, 'mnist is not prepared'),
    ({'test_split': 'validation'}, r"no split 'validation'.*\['test', 'train'\]"),
  ],
)
def test_tfds_mistakes_are_one_sentence(tfds_dir, fields, words):
  with pytest.raises(DataError, match=words) as caught:
    in_memory.open_sources(_tfds_config(tfds_dir, **fields))
  assert '\n' not in str(caught.value)


def test_tfds_files_of_another_format_are_refused(tfds_dir, tmp_path):
  info = pathlib.Path('tiny/1.0.0/dataset_info.json')
  (tmp_path / info).parent.mkdir(parents=True)
  for file in (tfds_dir / info).parent.iterdir():
    (tmp_path / info.parent / file.name.replace('array_record', 'tfrecord')).write_bytes(
      file.read_bytes().replace(b'"array_record"', b'"tfrecord"')
    )
  with pytest.raises(DataError, match=r'stored as tfrecord.*prepare it again with \./scripts/'):
    in_memory.open_sources(_tfds_config(tmp_path))


def test_a_damaged_tfds_record_is_a_read_error(tfds_dir, tmp_path):
  shutil.copytree(tfds_dir, tmp_path / 'copy')
  (path,) = (tmp_path / 'copy').rglob('tiny-train.array_record*')
  content = bytearray(path.read_bytes())
  place = content.find(b'train4')
  content[place : place + 6] = b'\0' * 6
  path.write_bytes(content)
  train, _ = in_memory.open_sources(_tfds_config(tmp_path / 'copy'))
  assert [train[i]['name'] for i in (3, 5)] == ['train3', 'train5']
  with pytest.raises(in_memory.ReadError) as caught:
    train[4]
  assert caught.value.name == 'train[4]'
  assert 'its record is damaged' in caught.value.reason
