"""`data.decode`: 'scaled' makes the same examples of smaller copies of large JPEGs."""

import cv2
import numpy as np
import pytest
import simplejpeg
from small_batches import assert_same, labels_of, make_settings, take

from nfnets import images

# A turned JPEG: an APP1 segment with the orientation 6 alone (EXIF 2.32, section 4.6.4).
_TURNED = bytes.fromhex('ffe100224578696600004d4d002a00000008000101120003000000010006000000000000')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Smooth pictures of 320 x 240 pixels; their brightness is their class."""
  root, rng = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
  for i in range(12):
    noise = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 24).astype(np.float32)
    picture = np.clip((picture - 127) * 4 + 80 * (i % 3) + 48, 0, 255).astype(np.uint8)
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=95)
    if i == 4:
      data = data[:2] + _TURNED + data[2:]
    place = root / f'class{i % 3}'
    place.mkdir(exist_ok=True)
    (place / f'{i}.jpg').write_bytes(data)
  return root


def _settings(folder, **fields):
  return make_settings(source='folder', dir=str(folder), image_size=24, **fields)


@pytest.mark.parametrize('crop', ['random', 'none'])
def test_the_same_examples_of_smaller_pictures(folder, crop, monkeypatch):
  shrinks, decode = [], images.decode
  monkeypatch.setattr(
    images,
    'decode',
    lambda data, **options: shrinks.extend(options.values()) or decode(data, **options),
  )
  scaled = take(_settings(folder, crop=crop, mixing='cutmix', decode='scaled'), 3)
  monkeypatch.undo()
  assert set(shrinks) == ({2, 4, 8} if crop == 'random' else {8})
  full = take(_settings(folder, crop=crop, mixing='cutmix'), 3)
  np.testing.assert_array_equal(labels_of(full), labels_of(scaled))
  for batch, other in zip(full, scaled, strict=True):
    for part, other_part in zip(batch[1:], other[1:], strict=True):
      np.testing.assert_array_equal(part, other_part)  # nothing else was drawn
    # In standard deviations of ImageNet's pixels, each about 58 of 255.
    assert np.abs(batch.images - other.images).mean() < 0.03
    assert (batch.images != other.images).any()


def test_crops_that_would_be_enlarged_come_whole(folder):
  settings = make_settings(source='folder', dir=str(folder), image_size=160, global_batch_size=4)
  scaled = make_settings(
    source='folder', dir=str(folder), image_size=160, global_batch_size=4, decode='scaled'
  )
  assert_same(take(settings, 2), take(scaled, 2))


def test_a_picture_that_cannot_be_used_changes_no_other_draw(folder, tmp_path):
  for path in folder.rglob('*.jpg'):
    place = tmp_path / path.relative_to(folder)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(path.read_bytes())
  broken = tmp_path / 'class1/7.jpg'
  broken.write_bytes(broken.read_bytes()[:700])  # its header can be read
  fields = {'max_corrupt_fraction': 0.5, 'image_size': 24}
  full, scaled = (
    take(make_settings(source='folder', dir=str(tmp_path), decode=decode, **fields), 4)
    for decode in ('full', 'scaled')
  )
  np.testing.assert_array_equal(labels_of(full), labels_of(scaled))
  for batch, other in zip(full, scaled, strict=True):
    assert np.abs(batch.images - other.images).mean() < 0.03
