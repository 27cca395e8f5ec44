"""Pictures that cannot be used: replaced or masked, named, and too many of them an error."""

import itertools

import cv2
import numpy as np
import pytest
from small_batches import assert_same, labels_of, make_settings, take

from experiments import data
from experiments.data import sources
from experiments.data.sources import in_memory
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
    red = batch.images[0, :, 0, 0, 0] * images.STDDEV_RGB[0] + images.MEAN_RGB[0]
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
