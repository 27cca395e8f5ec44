"""The stream of batches: what decides it, what does not, and the test set."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_batches import assert_same, labels_of, make_settings, take

from experiments import data
from experiments.data import ImageLayout, sources
from experiments.runtime.errors import DataError
from nfnets import images

# ---------------------------------------------------------------- the stream


@pytest.mark.parametrize('crop', ['random', 'shift', 'none'])
def test_batch_layout(crop):
  batch = take(make_settings(crop=crop), 1, devices=2)[0]
  assert batch.images.shape == (2, 4, 12, 12, 3)
  assert batch.images.dtype == np.float32
  for part, kind in zip(batch[1:], (np.int32, np.int32, np.float32, np.float32), strict=True):
    assert part.shape == (2, 4)
    assert part.dtype == kind
  np.testing.assert_array_equal(batch.mix_labels, batch.labels)
  assert (batch.mix_ratio == 1).all()
  assert (batch.mask == 1).all()


def test_images_belong_to_their_labels_and_are_normalized():
  settings = make_settings(crop='none', flip=False)
  train, _ = sources.open_sources(settings)
  for batch in take(settings, 3):
    for image, label in zip(batch.images[0], batch.labels[0], strict=True):
      np.testing.assert_array_equal(image, images.normalize(train[int(label)]['image']))


def test_every_epoch_has_every_example_in_another_order():
  labels = labels_of(take(make_settings(), 10)).reshape(4, 20)  # 10 batches of 8: 4 epochs of 20
  for epoch in labels:
    assert sorted(epoch) == list(range(20))
  assert len({tuple(epoch) for epoch in labels}) == 4
  assert tuple(range(20)) not in {tuple(epoch) for epoch in labels}


def test_augmentation_changes_every_epoch():
  batches = take(make_settings(), 10)
  pictures = np.concatenate([batch.images[0] for batch in batches])
  for label in range(20):
    seen = pictures[labels_of(batches) == label]
    assert len(seen) == 4
    assert len({picture.tobytes() for picture in seen}) == 4


def test_seed_decides():
  assert_same(take(make_settings(seed=3), 3), take(make_settings(seed=3), 3))
  first, second = take(make_settings(seed=3), 3), take(make_settings(seed=4), 3)
  assert (labels_of(first) != labels_of(second)).any()


def test_resume_is_exact_and_reads_nothing_before():
  settings = make_settings()
  assert_same(take(settings, 6)[4:], take(settings, 2, start=4))
  start = time.monotonic()
  take(settings, 1, start=200_000)
  assert time.monotonic() - start < 1


@pytest.mark.parametrize(
  ('workers', 'recipe', 'block', 'dtype'),
  [
    (2, 'mixup_cutmix', 4, 'bfloat16'),
    (0, 'mixup_cutmix', 2, 'float32'),
    (0, 'none', 1, 'bfloat16'),
  ],
)
def test_a_layout_holds_the_same_pictures(workers, recipe, block, dtype):
  settings = make_settings(num_workers=workers, mixing=recipe)
  layout = ImageLayout(block, dtype)
  for batch, plain in zip(
    take(settings, 2, devices=2, layout=layout), take(settings, 2, devices=2), strict=True
  ):
    assert batch.images.shape == (2, 4, 12 // block, 12 // block, 3 * block**2)
    assert batch.images.dtype.name == dtype
    restored = layout.restore(batch.images)
    assert restored.dtype == np.float32
    np.testing.assert_array_equal(restored, plain.images.astype(dtype).astype(np.float32))
    np.testing.assert_array_equal(batch.mix_ratio, plain.mix_ratio)


# A small magnitude, because at 12 pixels the published ones leave nothing of a picture.
_RECIPE = {'mixing': 'mixup_cutmix', 'augment': 'randaugment', 'randaugment_magnitude': 0.6}
_MIXED_LAST = ('augment', 'normalize', 'mix')


@pytest.mark.parametrize(
  ('fields', 'ends_in_bytes'),
  [
    (_RECIPE, True),
    ({**_RECIPE, 'order': _MIXED_LAST}, False),
    ({**_RECIPE, 'order': _MIXED_LAST, 'mixing': 'cutmix'}, True),
    ({'augment': 'autoaugment', 'stddev': (0.5, 0.5, 0.5)}, True),
    ({'resize': 'opencv', 'mixing': 'cutmix'}, True),
    ({'resize': 'opencv', 'mixing': 'mixup'}, False),
    ({'crop': 'shift'}, True),  # of pictures that have the size already
    ({}, False),
  ],
)
def test_recipes_that_end_in_bytes_hand_over_bytes(fields, ends_in_bytes):
  settings = make_settings(**fields)
  assert settings.train_ends_in_bytes == ends_in_bytes
  batches = take(settings, 2)
  pixels = np.stack([batch.images for batch in batches])
  pixels = pixels * images.on_byte_scale(settings.stddev) + images.on_byte_scale(settings.mean)
  assert (np.abs(pixels - pixels.round().clip(0, 255)).max() < 1e-3) == ends_in_bytes
  for block in (1, 4):
    layout = settings.train_layout(block)
    for batch, plain in zip(take(settings, 2, layout=layout), batches, strict=True):
      assert batch.images.dtype == (np.uint8 if ends_in_bytes else np.float32)
      np.testing.assert_array_equal(layout.restore(batch.images), plain.images)
      seen = jax.jit(lambda x, layout=layout: layout.for_network(x, jnp.float32))(batch.images[0])
      seen = layout._replace(dtype='float32').restore(getattr(seen, 'places', seen))
      np.testing.assert_array_equal(seen, plain.images[0])


@pytest.mark.parametrize(('mode', 'dtype'), [('squash', np.uint8), ('resize', np.float32)])
def test_pictures_that_tests_prepare_as_bytes_are_handed_over_as_bytes(mode, dtype):
  settings = make_settings(num_examples=50, eval_mode=mode, eval_image_size=9, eval_crop_share=0.9)
  layout = settings.test_layout
  plain = list(data.test_batches(settings, 1))
  for batch, expected in zip(data.test_batches(settings, 1, layout=layout), plain, strict=True):
    assert batch.images.dtype == dtype
    real = expected.mask > 0
    np.testing.assert_array_equal(layout.restore(batch.images)[real], expected.images[real])


def test_devices_and_hosts_only_divide_the_batch():
  settings = make_settings()
  whole = take(settings, 4)
  assert_same(
    [
      type(batch)(*(part.reshape(1, 8, *part.shape[2:]) for part in batch))
      for batch in take(settings, 4, devices=4)
    ],
    whole,
  )
  hosts = [take(settings, 4, process_index=host, process_count=2) for host in range(2)]
  for batch, *shares in zip(whole, *hosts, strict=True):
    for host, share in enumerate(shares):
      assert share.images.shape == (1, 4, 12, 12, 3)
      np.testing.assert_array_equal(share.images[0], batch.images[0, host::2])
      np.testing.assert_array_equal(share.labels[0], batch.labels[0, host::2])


@pytest.mark.parametrize('threads', [1, 5])
@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_threads_do_not_matter(threads, pairing):
  fields = {**_RECIPE, 'mix_pairing': pairing}
  expected = take(make_settings(**fields), 4)
  assert_same(take(make_settings(num_threads=threads, **fields), 4), expected)


def test_worker_processes_do_not_matter_and_end():
  of_workers = [make_settings(num_workers=workers, **_RECIPE) for workers in (0, 1, 3)]
  expected = take(of_workers[0], 5, start=2)
  for settings in of_workers[1:]:
    assert_same(take(settings, 5, start=2), expected)
    assert not multiprocessing.active_children()
  tests = [list(data.test_batches(settings, 1)) for settings in of_workers[:2]]
  assert_same(*tests)


def test_batch_must_divide():
  with pytest.raises(DataError, match=r'global_batch_size is 8.*2 hosts with 3'):
    data.train_batches(make_settings(), 0, 3, process_count=2)
  with pytest.raises(DataError, match=r'data\.eval_batch_size is 4'):
    data.test_batches(make_settings(), 3)


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_read_an_epoch_once_between_them(hosts):
  settings = make_settings(num_examples=48, num_classes=48, **_RECIPE)
  shares = [take(settings, 12, process_index=host, process_count=hosts) for host in range(hosts)]
  for part in ('labels', 'mix_labels'):  # the second pictures are another order of all as well
    for epoch in range(2):
      read = [
        getattr(b, part).ravel() for share in shares for b in share[6 * epoch : 6 * epoch + 6]
      ]
      assert sorted(np.concatenate(read)) == list(range(48))


# ---------------------------------------------------------------- mixing and augmentation


def _pixels(settings, index):
  """Picture `index` of the source without crop and flip, float32 on the scale 0..255."""
  return sources.open_sources(settings)[0][index]['image'].astype(np.float32)


def _unnormalized(image):
  return image * images.on_byte_scale(images.IMAGENET_STDDEV) + images.on_byte_scale(
    images.IMAGENET_MEAN
  )


@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_batches_are_mixed_as_their_labels_say(pairing):
  settings = make_settings(mixing='mixup_cutmix', mix_pairing=pairing, crop='none', flip=False)
  for batch in take(settings, 6, devices=2):
    if pairing == 'within_batch':
      np.testing.assert_array_equal(batch.mix_labels.ravel(), np.roll(batch.labels.ravel(), 1))
    for device in range(2):
      for place in range(4):
        label, mix_label, ratio = (part[device, place] for part in batch[1:4])
        image = _unnormalized(batch.images[device, place])
        first, second = _pixels(settings, label), _pixels(settings, mix_label)
        if place % 2 == 0:  # mixup on one half of each device's batch
          expected = ratio * first + (1 - ratio) * second
          np.testing.assert_allclose(image, expected, atol=0.01)
        else:
          kept = np.abs(image - first).max(-1) < 0.01
          np.testing.assert_allclose(image[~kept], second[~kept], atol=0.01)
          assert ratio == pytest.approx(kept.mean(), abs=1e-6) or label == mix_label


def test_every_position_pairs_its_picture_anew():
  batches = take(make_settings(mixing='mixup'), 10)  # 4 epochs of 20
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
  plain = take(make_settings(), 3)
  mixed = take(make_settings(mixing='cutmix'), 3)
  np.testing.assert_array_equal(labels_of(plain), labels_of(mixed))
  assert any(
    (first == second).all(-1).mean() > 0.2
    for a, b in zip(plain, mixed, strict=True)
    for first, second in zip(a.images[0], b.images[0], strict=True)
  )
  # NF-RegNet's order: augmentation of both pictures, mixing last.
  other = take(make_settings(**_RECIPE, order=('augment', 'normalize', 'mix')), 3)
  np.testing.assert_array_equal(labels_of(plain), labels_of(other))


def test_published_recipe_resumes_and_changes_every_epoch():
  settings = make_settings(**_RECIPE)
  batches = take(settings, 10)
  assert_same(batches[7:], take(settings, 3, start=7))
  for batch in batches:
    # Mixed and augmented pixels are bytes before they are normalised.
    pixels = _unnormalized(batch.images)
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
  assert len({image.tobytes() for batch in batches for image in batch.images[0]}) > 75
  start = time.monotonic()
  take(settings, 1, start=200_000)
  assert time.monotonic() - start < 1


def test_randaugment_needs_a_magnitude_before_a_run():
  with pytest.raises(DataError, match=r'set --config\.data\.randaugment_magnitude'):
    data.describe(make_settings(augment='randaugment'))


def test_a_batch_of_one_is_not_mixed_within_itself():
  settings = make_settings(global_batch_size=2, mixing='mixup', mix_pairing='within_batch')
  take(settings, 1, devices=2)
  with pytest.raises(DataError, match='cannot be mixed within itself'):
    data.train_batches(settings, 0, 1, process_count=2)


# ---------------------------------------------------------------- the test set


@pytest.mark.parametrize('hosts', [1, 2])
def test_test_set_comes_once_and_in_order(hosts):
  settings = make_settings(num_examples=90)  # 9 test pictures, 4 a batch over all hosts
  shares = [
    list(data.test_batches(settings, 1, process_index=host, process_count=hosts))
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
  settings = make_settings(source='digits')
  *figures, identity = data.describe(settings)
  assert figures == [1437, 360, 10, tuple('0123456789')]
  assert (identity.train.count, identity.test.count) == (1437, 360)
  assert identity.train.digest != identity.test.digest
  assert data.describe(make_settings()).num_test == 2


# ---------------------------------------------------------------- worker processes

_KILLED = """
import os, signal
from configs import base
from experiments import data

def main():
  config = base.get_config()
  config.global_batch_size = 4
  config.data.update({'source': 'synthetic', 'num_examples': 20, 'image_size': 8, 'num_workers': 1})
  batches = data.train_batches(data.DataSettings.from_config(config), 0, 1)
  next(batches)
  os.kill(os.getpid(), signal.SIGKILL)

if __name__ == '__main__':
  main()
"""


def test_workers_end_with_a_killed_run(tmp_path):
  script = tmp_path / 'killed.py'
  script.write_text(_KILLED)
  environment = {**os.environ, 'PYTHONPATH': str(pathlib.Path(__file__).parents[3])}
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
