import itertools
import multiprocessing
import time

import cv2
import numpy as np
import pytest

from configs import base
from experiments import data
from experiments.errors import DataError
from nfnets import images


def _config(**fields):
  """Synthetic 12-pixel pictures, unless the fields say otherwise."""
  config = base.get_config()
  config.global_batch_size = fields.pop('global_batch_size', 8)
  config.seed = fields.pop('seed', 0)
  defaults = {
    'source': 'synthetic',
    'num_examples': 20,
    'num_classes': 20,  # so that a label tells which picture it is
    'image_size': 12,
    'eval_image_size': 12,
    'eval_batch_size': 4,
    'eval_mode': 'resize',
    'num_threads': 2,
  }
  config.data.update({**defaults, **fields})
  return config


def _take(config, count, start=0, devices=1, **host):
  with data.train_batches(config, start, devices, **host) as batches:
    return list(itertools.islice(batches, count))


def _assert_same(first, second):
  assert len(first) == len(second)
  for batch, other in zip(first, second, strict=True):
    for part, other_part in zip(batch, other, strict=True):
      np.testing.assert_array_equal(part, other_part)


def _labels(batches):
  return np.concatenate([batch.labels.ravel() for batch in batches])


# ---------------------------------------------------------------- the stream


@pytest.mark.parametrize('crop', ['random', 'shift', 'none'])
def test_batch_layout(crop):
  batch = _take(_config(crop=crop), 1, devices=2)[0]
  assert batch.images.shape == (2, 4, 12, 12, 3)
  assert batch.images.dtype == np.float32
  for part, kind in zip(batch[1:], (np.int32, np.int32, np.float32, np.float32), strict=True):
    assert part.shape == (2, 4)
    assert part.dtype == kind
  np.testing.assert_array_equal(batch.mix_labels, batch.labels)
  assert (batch.mix_ratio == 1).all()
  assert (batch.mask == 1).all()


def test_images_belong_to_their_labels_and_are_normalized():
  config = _config(crop='none', flip=False)
  train, _ = data.sources.open_sources(config)
  for batch in _take(config, 3):
    for image, label in zip(batch.images[0], batch.labels[0], strict=True):
      np.testing.assert_array_equal(image, images.normalize(train[int(label)]['image']))


def test_every_epoch_has_every_example_in_another_order():
  labels = _labels(_take(_config(), 10)).reshape(4, 20)  # 10 batches of 8: 4 epochs of 20
  for epoch in labels:
    assert sorted(epoch) == list(range(20))
  assert len({tuple(epoch) for epoch in labels}) == 4
  assert tuple(range(20)) not in {tuple(epoch) for epoch in labels}


def test_augmentation_changes_every_epoch():
  batches = _take(_config(), 10)
  pictures = np.concatenate([batch.images[0] for batch in batches])
  for label in range(20):
    seen = pictures[_labels(batches) == label]
    assert len(seen) == 4
    assert len({picture.tobytes() for picture in seen}) == 4


def test_seed_decides():
  _assert_same(_take(_config(seed=3), 3), _take(_config(seed=3), 3))
  first, second = _take(_config(seed=3), 3), _take(_config(seed=4), 3)
  assert (_labels(first) != _labels(second)).any()


def test_resume_is_exact_and_reads_nothing_before():
  config = _config()
  _assert_same(_take(config, 6)[4:], _take(config, 2, start=4))
  start = time.monotonic()
  _take(config, 1, start=200_000)
  assert time.monotonic() - start < 1


def test_devices_and_hosts_only_divide_the_batch():
  config = _config()
  whole = _take(config, 4)
  _assert_same(
    [
      type(batch)(*(part.reshape(1, 8, *part.shape[2:]) for part in batch))
      for batch in _take(config, 4, devices=4)
    ],
    whole,
  )
  hosts = [_take(config, 4, process_index=host, process_count=2) for host in range(2)]
  for batch, *shares in zip(whole, *hosts, strict=True):
    for host, share in enumerate(shares):
      assert share.images.shape == (1, 4, 12, 12, 3)
      np.testing.assert_array_equal(share.images[0], batch.images[0, host::2])
      np.testing.assert_array_equal(share.labels[0], batch.labels[0, host::2])


@pytest.mark.parametrize('threads', [1, 5])
def test_threads_do_not_matter(threads):
  _assert_same(_take(_config(num_threads=threads), 4), _take(_config(), 4))


def test_worker_processes_do_not_matter_and_end():
  configs = [_config(num_workers=workers) for workers in (0, 1, 2)]
  expected = _take(configs[0], 5, start=2)
  for config in configs[1:]:
    _assert_same(_take(config, 5, start=2), expected)
    assert not multiprocessing.active_children()
  tests = [list(data.test_batches(config, 1)) for config in (configs[0], configs[2])]
  _assert_same(*tests)


def test_batch_must_divide():
  with pytest.raises(DataError, match=r'global_batch_size is 8.*2 hosts with 3'):
    data.train_batches(_config(), 0, 3, process_count=2)
  with pytest.raises(DataError, match=r'data\.eval_batch_size is 4'):
    data.test_batches(_config(), 3)


def test_unknown_choices_are_refused():
  with pytest.raises(DataError, match=r'unknown data\.crop'):
    data.train_batches(_config(crop='centre'), 0, 1)
  with pytest.raises(DataError, match=r'unknown data\.eval_mode'):
    data.test_batches(_config(eval_mode='centre'), 1)


# ---------------------------------------------------------------- the test set


@pytest.mark.parametrize('hosts', [1, 2])
def test_test_set_comes_once_and_in_order(hosts):
  config = _config(num_examples=90)  # 9 test pictures, 4 a batch over all hosts
  shares = [
    list(data.test_batches(config, 1, process_index=host, process_count=hosts))
    for host in range(hosts)
  ]
  assert [len(share) for share in shares] == [3] * hosts
  labels, masks = (
    np.stack([np.concatenate([getattr(b, field).ravel() for b in share]) for share in shares], -1)
    for field in ('labels', 'mask')
  )
  np.testing.assert_array_equal(masks.ravel(), [1] * 9 + [0] * 3)
  np.testing.assert_array_equal(labels.ravel()[:9], range(9))


def test_describe():
  config = _config(source='digits')
  assert data.describe(config) == (1437, 360, 10, tuple('0123456789'))
  assert data.describe(_config()).num_test == 2


# ---------------------------------------------------------------- unreadable pictures


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


def _folder_config(pictures, **fields):
  return _config(source='folder', dir=str(pictures), **fields)


def test_unreadable_pictures_are_replaced_and_named_once(pictures, caplog):
  (pictures / 'train/class1/4.png').write_bytes(b'')
  (pictures / 'train/class2/0.png').write_bytes(b'rubbish')
  (pictures / 'train/class3/4.png').unlink()
  (pictures / 'train/class3/4.png').mkdir()  # not listed: a folder is no picture
  config = _folder_config(pictures, max_corrupt_fraction=0.2, crop='none')
  with caplog.at_level('WARNING'), data.train_batches(config, 0, 1) as batches:
    taken = list(itertools.islice(batches, 19))  # 8 epochs of 19 pictures
    assert set(batches.corrupt) == {'train/class1/4.png', 'train/class2/0.png'}
  assert 'empty' in batches.corrupt['train/class1/4.png']
  assert caplog.text.count('class1/4.png') == 1
  assert all((batch.mask == 1).all() for batch in taken)
  # Both give way to the next readable picture, which is class2/1; the label goes with it.
  assert np.bincount(_labels(taken)).tolist() == [5 * 8, 4 * 8, 6 * 8, 4 * 8]
  for batch in taken:
    red = batch.images[0, :, 0, 0, 0] * images.STDDEV_RGB[0] + images.MEAN_RGB[0]
    np.testing.assert_allclose(red, 60 * batch.labels[0], atol=0.01)
  _assert_same(_take(config, 19), taken)


def test_too_many_unreadable_pictures_end_the_run(pictures):
  for i in range(3):
    (pictures / f'train/class1/{i}.png').write_bytes(b'')
  _take(_folder_config(pictures, max_corrupt_fraction=0.15), 5)
  with pytest.raises(DataError, match=r'3 of 20 pictures are unreadable.*class1/\d\.png'):
    _take(_folder_config(pictures, max_corrupt_fraction=0.14), 5)
  with pytest.raises(DataError, match='unreadable'):
    _take(_folder_config(pictures, max_corrupt_fraction=0), 5)


def test_vanished_and_only_unreadable_pictures_end_the_run(pictures):
  batches = data.train_batches(_folder_config(pictures, max_corrupt_fraction=1.0), 0, 1)
  for file in (pictures / 'train').rglob('*.png'):
    file.unlink()
  with pytest.raises(DataError, match='20 of 20'):
    next(batches)


def test_unreadable_test_pictures_are_masked(pictures):
  (pictures / 'test/class2/0.png').write_bytes(b'\xff\xd8\xff')
  config = _folder_config(pictures, max_corrupt_fraction=0.5)
  batches = data.test_batches(config, 1)
  (batch,) = list(batches)
  np.testing.assert_array_equal(batch.mask, [[1, 1, 0, 1]])
  np.testing.assert_array_equal(batch.labels[batch.mask == 1], [0, 1, 3])
  assert list(batches.corrupt) == ['test/class2/0.png']
  with pytest.raises(DataError, match='1 of 4'):
    list(data.test_batches(_folder_config(pictures, max_corrupt_fraction=0.1), 1))
