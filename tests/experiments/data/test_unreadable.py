"""Pictures that cannot be used: replaced or masked, named, and too many of them an error."""

import errno
import itertools
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from small_batches import assert_same, labels_of, make_settings, take

from experiments import data
from experiments.data import sources
from experiments.data.sources import folder, in_memory
from experiments.runtime.errors import DataError
from nfnets import images


@pytest.fixture
def pictures(tmp_path):
  """Four classes of five training pictures and one test picture; the value is the class."""
  for label in range(4):
    for part, count in (('train', 5), ('test', 1)):
      place = tmp_path / part / f'class{label}'
      place.mkdir(parents=True)
      for i in range(count):
        cv2.imwrite(str(place / f'{i}.png'), np.full((9, 9, 3), 60 * label, np.uint8))
  return tmp_path


def _folder_settings(pictures, **fields):
  return make_settings(source='folder', dir=str(pictures), **fields)


def test_unreadable_pictures_are_replaced_and_named_once(pictures, caplog):
  (pictures / 'train/class1/4.png').write_bytes(b'')
  (pictures / 'train/class2/0.png').write_bytes(b'rubbish')
  (pictures / 'train/class3/4.png').unlink()
  (pictures / 'train/class3/4.png').mkdir()  # not listed: a folder is no picture
  settings = _folder_settings(pictures, max_corrupt_fraction=0.2, crop='none')
  with caplog.at_level('WARNING'), data.train_batches(settings, 0, 1) as batches:
    taken = list(itertools.islice(batches, 19))  # 8 epochs of 19 pictures
    assert set(batches.corrupt) == {'train/class1/4.png', 'train/class2/0.png'}
  assert 'empty' in batches.corrupt['train/class1/4.png']
  assert caplog.text.count('class1/4.png') == 1
  assert all((batch.mask == 1).all() for batch in taken)
  # Both give way to the next readable picture, which is class2/1; the label goes with it.
  assert np.bincount(labels_of(taken)).tolist() == [5 * 8, 4 * 8, 6 * 8, 4 * 8]
  for batch in taken:
    red = (batch.images[0, :, 0, 0, 0] * 0.229 + 0.485) * 255
    np.testing.assert_allclose(red, 60 * batch.labels[0], atol=0.01)
  assert_same(take(settings, 19), taken)


def test_too_many_unreadable_pictures_end_the_run(pictures):
  for i in range(3):
    (pictures / f'train/class1/{i}.png').write_bytes(b'')
  take(_folder_settings(pictures, max_corrupt_fraction=0.15), 5)
  with pytest.raises(DataError, match=r'3 of 20 pictures are unreadable.*class1/\d\.png'):
    take(_folder_settings(pictures, max_corrupt_fraction=0.14), 5)
  with pytest.raises(DataError, match='unreadable'):
    take(_folder_settings(pictures, max_corrupt_fraction=0), 5)


def test_vanished_and_only_unreadable_pictures_end_the_run(pictures):
  batches = data.train_batches(_folder_settings(pictures, max_corrupt_fraction=1.0), 0, 1)
  for file in (pictures / 'train').rglob('*.png'):
    file.unlink()
  with pytest.raises(DataError, match='20 of 20'):
    next(batches)


def test_unreadable_test_pictures_are_masked(pictures):
  (pictures / 'test/class2/0.png').write_bytes(b'\xff\xd8\xff')
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)
  batches = data.test_batches(settings, 1)
  (batch,) = list(batches)
  np.testing.assert_array_equal(batch.mask, [[1, 1, 0, 1]])
  np.testing.assert_array_equal(batch.labels[batch.mask == 1], [0, 1, 3])
  assert list(batches.corrupt) == ['test/class2/0.png']
  with pytest.raises(DataError, match='1 of 4'):
    list(data.test_batches(_folder_settings(pictures, max_corrupt_fraction=0.1), 1))


def test_a_test_set_without_a_readable_picture_is_found_before_a_run(pictures):
  settings = _folder_settings(pictures, max_corrupt_fraction=1.0)
  for label in range(3):
    (pictures / f'test/class{label}/0.png').write_bytes(b'')
  data.check_test_set(settings)  # one is left
  (pictures / 'test/class3/0.png').write_bytes(b'rubbish')
  with pytest.raises(DataError, match=r'none of the 4 test pictures can be read, .*class3/0.png'):
    data.check_test_set(settings)


def test_an_empty_test_set_is_found_when_the_data_are_described(monkeypatch):
  pixels, labels = np.zeros((2, 9, 9, 3), np.uint8), np.array([0, 1])
  train = in_memory.ArraySource(pixels, labels, ['a', 'b'], ('a', 'b'))
  empty = in_memory.ArraySource(pixels[:0], labels[:0], [], ('a', 'b'))
  monkeypatch.setattr(sources, 'open_sources', lambda _: (train, empty))
  with pytest.raises(DataError, match=r"no test pictures.*data\.test_split is 'test'"):
    data.describe(make_settings())


def test_labels_out_of_range_are_named(monkeypatch):
  pixels = np.zeros((6, 9, 9, 3), np.uint8)
  names = [f'picture {i}' for i in range(6)]
  source = in_memory.ArraySource(pixels, np.array([0, 1, 2, -1, 3, 1]), names, ('a', 'b', 'c'))
  monkeypatch.setattr(sources, 'open_sources', lambda _: (source, source))
  with data.train_batches(make_settings(max_corrupt_fraction=0.5), 0, 1) as batches:
    labels = labels_of(itertools.islice(batches, 3))  # 4 epochs of 6
  assert batches.corrupt == {
    'picture 3': 'its label is -1, but the 3 classes are 0 to 2',
    'picture 4': 'its label is 3, but the 3 classes are 0 to 2',
  }
  assert np.bincount(labels).tolist() == [4, 4 * 4, 4]  # both give way to picture 5
  with pytest.raises(DataError, match='2 of 6 pictures are unreadable'):
    list(data.test_batches(make_settings(max_corrupt_fraction=0.2), 1))


# ---------------------------------------------------------------- while a run goes on


def test_a_picture_that_vanishes_ends_the_run_by_name(pictures):
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)
  with data.train_batches(settings, 0, 1) as batches:
    next(batches)
    (pictures / 'train/class2/3.png').unlink()
    sentence = r'the picture train/class2/3\.png cannot be opened any more \(No such file'
    with pytest.raises(DataError, match=sentence):
      list(itertools.islice(batches, 9))
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5, eval_batch_size=1)
  with data.test_batches(settings, 1) as batches:
    next(batches)
    (pictures / 'test/class3/0.png').unlink()
    (pictures / 'test/class3').rmdir()
    with pytest.raises(DataError, match=r'test/class3/0\.png cannot be opened any more'):
      list(batches)


def test_most_of_a_class_ends_the_run_by_name(pictures):
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)
  for i in range(3):
    (pictures / f'train/class1/{i}.png').write_bytes(b'')
  take(settings, 10)
  (pictures / 'train/class1/3.png').write_bytes(b'')
  with pytest.raises(DataError, match="4 of the 5 pictures of the class 'class1' are unreadable"):
    take(settings, 10)
  take(_folder_settings(pictures, max_corrupt_fraction=1.0), 10)


def test_a_picture_that_becomes_a_pipe_is_replaced(pictures):
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)
  with data.train_batches(settings, 0, 1) as batches:
    next(batches)
    (pictures / 'train/class0/1.png').unlink()
    os.mkfifo(pictures / 'train/class0/1.png')
    list(itertools.islice(batches, 9))
    assert 'it is a pipe' in batches.corrupt['train/class0/1.png']


# ---------------------------------------------------------------- the machine's errors


@pytest.mark.parametrize('number', [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_errors_of_the_machine_are_not_the_pictures(pictures, monkeypatch, number):
  settings = _folder_settings(pictures, max_corrupt_fraction=1.0)

  def fails(path):
    raise OSError(number, os.strerror(number), str(path))

  monkeypatch.setattr(folder.picture_files, 'read', fails)
  sentence = rf'the picture t\w+/class\d/\d\.png cannot be read: {os.strerror(number)}\. That'
  with pytest.raises(DataError, match=sentence):
    take(settings, 1)
  with pytest.raises(DataError, match=sentence):
    list(data.test_batches(settings, 1))


def test_memory_that_runs_out_is_not_the_pictures_fault(pictures, monkeypatch):
  def fails(_, **options):
    raise MemoryError

  monkeypatch.setattr(images, 'decode', fails)
  with pytest.raises(DataError, match='Cannot allocate memory'):
    take(_folder_settings(pictures, max_corrupt_fraction=1.0), 1)


FEW_FILES = """
import pathlib, pickle, resource, sys
from experiments.data.sources import MachineError, packed_folder, tfds
from array_record.python import array_record_data_source
from grain.python import ArrayRecordDataSource

class Dicts:
  def __init__(self, records):
    self.records = records
  def __len__(self):
    return len(self.records)
  def __getitem__(self, index):
    return {'image': self.records[index], 'label': 0}

paths = sorted(map(str, pathlib.Path(sys.argv[1]).glob('*.array_record')))
# As a worker process gets them: opened when first read.
records = pickle.loads(pickle.dumps(packed_folder.Records(pathlib.Path(sys.argv[1]))))
shards = tfds.TfdsSource(Dicts(ArrayRecordDataSource(paths)), 'train', ('a',), 'set/1.0 train', '')
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
for source in (records, shards):
  try:
    print('read', source[0])
  except MachineError as error:
    print(error)
"""


def test_too_many_open_files_in_array_records(tmp_path):
  from array_record.python import array_record_module

  for name in ('pictures', 'more'):
    path = str(tmp_path / f'{name}.array_record')
    writer = array_record_module.ArrayRecordWriter(path, 'group_size:1')
    writer.write(b'record')
    writer.close()
  done = subprocess.run(
    [sys.executable, '-c', FEW_FILES, str(tmp_path)], capture_output=True, text=True, timeout=120
  )
  lines = done.stdout.splitlines()
  assert len(lines) == 2, done.stdout + done.stderr
  assert lines[0].startswith('record 0 of '), lines
  assert lines[1].startswith('train[0] cannot be read: Too many open files.'), lines
  assert all('ulimit -n' in line for line in lines)


# ---------------------------------------------------------------- over hosts and starts


def test_the_count_survives_a_resume_and_is_of_all_hosts(pictures, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  for label in range(3):
    (pictures / f'train/class{label}/0.png').write_bytes(b'')
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)

  def host(index, start, count):
    with data.train_batches(settings, start, 1, index, 2, workdir=workdir) as batches:
      list(itertools.islice(batches, count))
      return batches.unreadable.count()

  assert host(0, 0, 40) == 3
  assert host(1, 0, 40) == 3  # the same ones, once each
  (pictures / 'train/class0/0.png').write_bytes((pictures / 'train/class0/1.png').read_bytes())
  assert host(0, 10, 0) == 3  # nothing met yet after a resume
  assert host(1, 10, 40) == 3  # two again
  (pictures / 'train/class3/2.png').write_bytes(b'')
  assert host(1, 20, 40) == 4
  assert host(0, 30, 0) == 4
  with (workdir / 'unreadable_pictures.0.jsonl').open('a') as file:
    file.write('{"name": "half')
  assert host(0, 30, 0) == 4


def test_a_new_start_forgets_the_record(pictures, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  (pictures / 'train/class0/0.png').write_bytes(b'')
  settings = _folder_settings(pictures, max_corrupt_fraction=0.5)
  take(settings, 5, workdir=workdir)
  assert [path.name for path in workdir.iterdir()] == ['unreadable_pictures.0.jsonl']
  take(settings, 0, workdir=workdir)
  assert not list(workdir.iterdir())
