"""TFDS data sets in array_record files."""

import dataclasses
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

from configs import base
from experiments import data
from experiments.data import DataSettings, sources
from experiments.runtime.errors import DataError


def _settings(**fields):
  config = base.get_config()
  config.data.update(fields)
  return DataSettings.from_config(config)


def _names(source):
  return [source[i]['name'] for i in range(len(source))]


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


def _tfds_settings(tfds_dir, **fields):
  return _settings(**{'source': 'tfds', 'name': 'tiny', 'dir': str(tfds_dir), **fields})


def test_tfds_is_read_without_tensorflow(tfds_dir):
  train, test = sources.open_sources(_tfds_settings(tfds_dir))
  assert (len(train), len(test)) == (6, 3)
  assert train.class_names == ('cat', 'dog', 'owl')
  example = pickle.loads(pickle.dumps(train))[4]  # as a worker process gets it
  assert (example['label'], example['name']) == (1, 'train4')
  pixels = cv2.imdecode(np.frombuffer(example['image'], np.uint8), cv2.IMREAD_COLOR)
  np.testing.assert_array_equal(pixels, np.full((4, 5, 3), 4, np.uint8))
  assert 'tensorflow' not in sys.modules


def test_a_run_on_tfds_is_known_by_name_version_and_split(tfds_dir, tmp_path):
  settings = _tfds_settings(tfds_dir, train_split='train[2:]', image_size=8, eval_image_size=8)
  parts = data.describe(settings).identity
  assert (parts.train.origin, parts.train.count) == ('tiny/1.0.0 train[2:]', 4)
  assert (parts.test.origin, parts.test.count) == ('tiny/1.0.0 test', 3)
  moved = shutil.copytree(tfds_dir, tmp_path / 'moved')
  there = dataclasses.replace(settings, dir=str(moved))
  assert data.describe(there).identity == parts
  file = next((moved / 'tiny/1.0.0').glob('*train*'))
  before = sources.file_stats(there)
  os.utime(file, ns=(0, 0))  # prepared again
  assert sources.file_stats(there) != before


def test_tfds_takes_split_expressions(tfds_dir):
  settings = _tfds_settings(tfds_dir, train_split='train[2:]', test_split='train[:2]')
  train, test = sources.open_sources(settings)
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
    sources.open_sources(_tfds_settings(tfds_dir, **fields))
  assert '\n' not in str(caught.value)


def test_tfds_files_of_another_format_are_refused(tfds_dir, tmp_path):
  info = pathlib.Path('tiny/1.0.0/dataset_info.json')
  (tmp_path / info).parent.mkdir(parents=True)
  for file in (tfds_dir / info).parent.iterdir():
    (tmp_path / info.parent / file.name.replace('array_record', 'tfrecord')).write_bytes(
      file.read_bytes().replace(b'"array_record"', b'"tfrecord"')
    )
  with pytest.raises(DataError, match=r'stored as tfrecord.*prepare it again with \./scripts/'):
    sources.open_sources(_tfds_settings(tmp_path))


def test_a_damaged_tfds_record_is_a_read_error(tfds_dir, tmp_path):
  shutil.copytree(tfds_dir, tmp_path / 'copy')
  (path,) = (tmp_path / 'copy').rglob('tiny-train.array_record*')
  content = bytearray(path.read_bytes())
  place = content.find(b'train4')
  content[place : place + 6] = b'\0' * 6
  path.write_bytes(content)
  train, _ = sources.open_sources(_tfds_settings(tmp_path / 'copy'))
  assert [train[i]['name'] for i in (3, 5)] == ['train3', 'train5']
  with pytest.raises(sources.ReadError) as caught:
    train[4]
  assert caught.value.name == 'train[4]'
  assert 'its record is damaged' in caught.value.reason
