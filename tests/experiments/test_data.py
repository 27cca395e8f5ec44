import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from configs import base, digits, nfnet_imagenet
from experiments import data, settings
from experiments.errors import ConfigError, DataError
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
@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_threads_do_not_matter(threads, pairing):
  fields = {**_RECIPE, 'mix_pairing': pairing}
  _assert_same(_take(_config(num_threads=threads, **fields), 4), _take(_config(**fields), 4))


# A small magnitude, because at 12 pixels the published ones leave nothing of a picture.
_RECIPE = {'mixing': 'mixup_cutmix', 'augment': 'randaugment', 'randaugment_magnitude': 0.6}


def test_worker_processes_do_not_matter_and_end():
  configs = [_config(num_workers=workers, **_RECIPE) for workers in (0, 1, 3)]
  expected = _take(configs[0], 5, start=2)
  for config in configs[1:]:
    _assert_same(_take(config, 5, start=2), expected)
    assert not multiprocessing.active_children()
  tests = [list(data.test_batches(config, 1)) for config in configs[:2]]
  _assert_same(*tests)


def test_batch_must_divide():
  with pytest.raises(DataError, match=r'global_batch_size is 8.*2 hosts with 3'):
    data.train_batches(_config(), 0, 3, process_count=2)
  with pytest.raises(DataError, match=r'data\.eval_batch_size is 4'):
    data.test_batches(_config(), 3)


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_read_an_epoch_once_between_them(hosts):
  config = _config(num_examples=48, num_classes=48, **_RECIPE)
  shares = [_take(config, 12, process_index=host, process_count=hosts) for host in range(hosts)]
  for part in ('labels', 'mix_labels'):  # the second pictures are another order of all as well
    for epoch in range(2):
      read = [
        getattr(b, part).ravel() for share in shares for b in share[6 * epoch : 6 * epoch + 6]
      ]
      assert sorted(np.concatenate(read)) == list(range(48))


# ---------------------------------------------------------------- mixing and augmentation


def _pixels(config, index):
  """Picture `index` of a config without crop and flip, float32 on the scale 0..255."""
  return data.sources.open_sources(config)[0][index]['image'].astype(np.float32)


def _unnormalized(image):
  return image * np.float32(images.STDDEV_RGB) + np.float32(images.MEAN_RGB)


@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_batches_are_mixed_as_their_labels_say(pairing):
  config = _config(mixing='mixup_cutmix', mix_pairing=pairing, crop='none', flip=False)
  for batch in _take(config, 6, devices=2):
    if pairing == 'within_batch':
      np.testing.assert_array_equal(batch.mix_labels.ravel(), np.roll(batch.labels.ravel(), 1))
    for device in range(2):
      for place in range(4):
        label, mix_label, ratio = (part[device, place] for part in batch[1:4])
        image = _unnormalized(batch.images[device, place])
        first, second = _pixels(config, label), _pixels(config, mix_label)
        if place % 2 == 0:  # mixup on one half of each device's batch
          expected = ratio * first + (1 - ratio) * second
          np.testing.assert_allclose(image, expected, atol=0.01)
        else:
          kept = np.abs(image - first).max(-1) < 0.01
          np.testing.assert_allclose(image[~kept], second[~kept], atol=0.01)
          assert ratio == pytest.approx(kept.mean(), abs=1e-6) or label == mix_label


def test_every_position_pairs_its_picture_anew():
  batches = _take(_config(mixing='mixup'), 10)  # 4 epochs of 20
  first, second = (
    np.concatenate([getattr(batch, part).ravel() for batch in batches]).reshape(4, 20)
    for part in ('labels', 'mix_labels')
  )
  for epoch in second:
    assert sorted(epoch) == list(range(20))
  pairs = {frozenset(enumerate(e[np.argsort(f)])) for f, e in zip(first, second, strict=True)}
  assert len(pairs) == 4
  ratios = np.concatenate([batch.mix_ratio.ravel() for batch in batches])
  assert len(set(ratios)) > 70


def test_mixing_and_augmentation_leave_the_order_and_the_crops():
  plain = _take(_config(), 3)
  mixed = _take(_config(mixing='cutmix'), 3)
  np.testing.assert_array_equal(_labels(plain), _labels(mixed))
  assert any(
    (first == second).all(-1).mean() > 0.2
    for a, b in zip(plain, mixed, strict=True)
    for first, second in zip(a.images[0], b.images[0], strict=True)
  )
  # NF-RegNet's order: augmentation of both pictures, mixing last.
  other = _take(_config(**_RECIPE, order=('augment', 'normalize', 'mix')), 3)
  np.testing.assert_array_equal(_labels(plain), _labels(other))


def test_published_recipe_resumes_and_changes_every_epoch():
  config = _config(**_RECIPE)
  batches = _take(config, 10)
  _assert_same(batches[7:], _take(config, 3, start=7))
  for batch in batches:
    # Mixed and augmented pixels are bytes before they are normalised.
    pixels = _unnormalized(batch.images)
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
  assert len({image.tobytes() for batch in batches for image in batch.images[0]}) > 75
  start = time.monotonic()
  _take(config, 1, start=200_000)
  assert time.monotonic() - start < 1


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'crop': 'centre'}, r"unknown data\.crop 'centre'; choose one of random"),
    ({'resize': 'fast'}, r"unknown data\.resize 'fast'; choose one of exact, opencv"),
    ({'eval_mode': 'centre'}, r'unknown data\.eval_mode'),
    ({'mixing': 'fmix'}, r"unknown data\.mixing 'fmix'; choose one of none, mixup"),
    ({'mix_pairing': 'any'}, r"unknown data\.mix_pairing 'any'; choose one of second_image"),
    ({'mixup_alpha': 0.0}, r'data\.mixup_alpha is 0'),
    ({'augment': 'trivial'}, r"data\.augment is 'trivial'; choose"),
    (
      {'augment': 'randaugment', 'randaugment_magnitude': -1.0},
      r'data\.randaugment_magnitude is -1',
    ),
    ({'order': ('mix',)}, r'data\.order is'),
    ({'published_quirks': ('x',)}, r"data\.published_quirks names 'x'"),
  ],
)
def test_bad_fields_are_refused_before_a_run(fields, words):
  with pytest.raises(DataError, match=words):
    data.describe(_config(**fields))


def test_a_batch_of_one_is_not_mixed_within_itself():
  config = _config(global_batch_size=2, mixing='mixup', mix_pairing='within_batch')
  _take(config, 1, devices=2)
  with pytest.raises(DataError, match='cannot be mixed within itself'):
    data.train_batches(config, 0, 1, process_count=2)


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


def test_labels_out_of_range_are_named(monkeypatch):
  pixels = np.zeros((6, 9, 9, 3), np.uint8)
  names = [f'picture {i}' for i in range(6)]
  source = data.sources.ArraySource(pixels, np.array([0, 1, 2, -1, 3, 1]), names, ('a', 'b', 'c'))
  monkeypatch.setattr(data.sources, 'open_sources', lambda _: (source, source))
  with data.train_batches(_config(max_corrupt_fraction=0.5), 0, 1) as batches:
    labels = _labels(itertools.islice(batches, 3))  # 4 epochs of 6
  assert batches.corrupt == {
    'picture 3': 'its label is -1, but the 3 classes are 0 to 2',
    'picture 4': 'its label is 3, but the 3 classes are 0 to 2',
  }
  assert np.bincount(labels).tolist() == [4, 4 * 4, 4]  # both give way to picture 5
  with pytest.raises(DataError, match='2 of 6 pictures are unreadable'):
    list(data.test_batches(_config(max_corrupt_fraction=0.2), 1))


# ---------------------------------------------------------------- the published recipe


def test_the_magnitude_follows_the_variant_unless_it_is_set():
  config = nfnet_imagenet.get_config('F0')
  assert settings.resolve(config).data.randaugment_magnitude == 5
  config.model.variant = 'F4'  # as a flag would, after the file was read
  resolved = settings.resolve(config).data
  assert (resolved.randaugment_magnitude, resolved.image_size) == (15, 384)
  config.data.randaugment_magnitude = 7.5
  assert settings.resolve(config).data.randaugment_magnitude == 7.5
  config.model.variant, config.model.spec = (
    'custom',
    {'width': (32,) * 4, 'depth': (1,) * 4, 'group_width': 8},
  )
  config.data.randaugment_magnitude = None
  with pytest.raises(ConfigError, match=r'custom has no RandAugment magnitude of its own: set'):
    settings.resolve(config)


def test_the_published_recipe():
  resolved = settings.resolve(nfnet_imagenet.get_config('F3')).data
  assert (resolved.mixing, resolved.mix_pairing) == ('mixup_cutmix', 'second_image')
  assert (resolved.augment, resolved.randaugment_layers) == ('randaugment', 4)
  assert tuple(resolved.order) == ('mix', 'augment', 'normalize')
  assert settings.resolve(digits.get_config()).data.mixing == 'none'


_KILLED = """
import os, signal
from configs import base
from experiments import data

def main():
  config = base.get_config()
  config.global_batch_size = 4
  config.data.update({'source': 'synthetic', 'num_examples': 20, 'image_size': 8, 'num_workers': 1})
  batches = data.train_batches(config, 0, 1)
  next(batches)
  os.kill(os.getpid(), signal.SIGKILL)

if __name__ == '__main__':
  main()
"""


def test_workers_end_with_a_killed_run(tmp_path):
  script = tmp_path / 'killed.py'
  script.write_text(_KILLED)
  environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[2])}
  # The worker holds the pipe open as long as it lives, so this also waits for its end.
  done = subprocess.run(
    [sys.executable, script],
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    timeout=60,
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
