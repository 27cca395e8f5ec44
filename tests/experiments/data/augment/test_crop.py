import numpy as np
import pytest

from experiments.data.augment import crop
from nfnets import images, inference


def _resized(image, size, rng, **options):
  box, mirror = crop.random_cut(image.shape, size, rng, **options)
  return images.resize_bicubic(image, (size, size), box=box, mirror=mirror)


def _boxes(shape, count, **options):
  rng = np.random.default_rng(0)
  return np.array([crop.random_crop_box(shape, 192, rng, **options) for _ in range(count)])


def test_mean_area_is_that_of_tensorflow():
  # Published as 0.39 for TensorFlow's sampler; torchvision's gives 0.44. Standard error 0.0017.
  boxes = _boxes((375, 500, 3), 15_000)
  areas = boxes[:, 2] * boxes[:, 3] / (375 * 500)
  assert abs(areas.mean() - 0.39) < 0.008
  assert areas.min() >= 0.1  # the crop must also cover a tenth of the object, the whole picture
  assert areas.max() <= 1


@pytest.mark.parametrize('shape', [(375, 500), (500, 375), (64, 64), (7, 5)])
def test_boxes_lie_within_the_picture_and_the_aspect(shape):
  boxes = _boxes(shape, 2000)
  top, left, height, width = boxes.T
  assert min(top.min(), left.min()) >= 0
  assert min(height.min(), width.min()) >= 1
  assert (top + height).max() <= shape[0]
  assert (left + width).max() <= shape[1]
  # The width is the height times the aspect, rounded.
  assert (width >= 3 / 4 * height - 0.5 - 1e-9).all()
  assert (width <= 4 / 3 * height + 0.5 + 1e-9).all()


def test_impossible_crops_fall_back_to_the_padded_center():
  # No box with aspect 3/4..4/3 has a tenth of a picture this long.
  assert (_boxes((20, 1000), 50) == inference.padded_center_box((20, 1000), 192)).all()
  # The whole picture counts as failure too, as published.
  whole = _boxes((64, 64), 20, area=(1.0, 1.0), aspect=(1.0, 1.0))
  assert (whole == inference.padded_center_box((64, 64), 192)).all()


def test_crop_is_a_function_of_the_generator():
  image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
  first, second, other = (_resized(image, 32, np.random.default_rng(seed)) for seed in (5, 5, 6))
  np.testing.assert_array_equal(first, second)
  assert np.abs(first - other).max() > 1
  top, left, height, width = crop.random_crop_box(image.shape, 32, np.random.default_rng(5))
  expected = images.resize_bicubic(image[top : top + height, left : left + width], (32, 32))
  np.testing.assert_array_equal(first, expected)


def test_flip_mirrors_half_of_the_time():
  image = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
  whole = {'area': (0.999, 1.0), 'aspect': (4 / 3, 4 / 3)}  # always the padded centre
  plain = _resized(image, 8, np.random.default_rng(0), **whole)
  rng, flips = np.random.default_rng(0), 0
  for _ in range(1000):
    flipped = _resized(image, 8, rng, flip=True, **whole)
    mirrored = not (flipped == plain).all()
    assert not mirrored or (flipped == plain[:, ::-1]).all()
    flips += mirrored
  assert 450 < flips < 550


def test_shift_moves_uniformly_and_repeats_the_edge():
  image = np.zeros((20, 20, 1), np.float32)
  image[10, 10] = 1
  rng = np.random.default_rng(0)
  places = [np.argwhere(crop.random_shift(image, 0.1, rng)[..., 0])[0] for _ in range(2000)]
  moves, counts = np.unique(np.array(places) - 10, axis=0, return_counts=True)
  assert {tuple(move) for move in moves} == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
  assert counts.min() > 40  # of 80 expected
  ramp = np.arange(10.0)[:, None, None] * np.ones((1, 10, 1))
  shifted = [crop.random_shift(ramp, 0.3, rng)[:, 0, 0] for _ in range(50)]
  assert {row.min() for row in shifted} == {0, 1, 2, 3}
  assert all((np.diff(row) >= 0).all() for row in shifted)


@pytest.mark.parametrize('shrink', [1, 2, 8])
def test_a_cut_is_found_in_a_smaller_copy(shrink):
  rng = np.random.default_rng(0)
  for shape in ((375, 500), (1200, 1601)):
    smaller = tuple(-(-side // shrink) for side in shape)
    for _ in range(200):
      cut = crop.random_cut(shape, 32, rng, flip=True)
      top, left, height, width = cut.in_copy(shape, smaller).box
      assert cut.in_copy(shape, smaller).mirror == cut.mirror
      for first, length, old_first, old_length, side, old_side in (
        (top, height, cut.box[0], cut.box[2], smaller[0], shape[0]),
        (left, width, cut.box[1], cut.box[3], smaller[1], shape[1]),
      ):
        assert abs(first - old_first * side / old_side) <= 0.5
        assert abs(first + length - (old_first + old_length) * side / old_side) <= 0.5
        assert length >= old_length // shrink
        assert 0 <= first < first + length <= side
