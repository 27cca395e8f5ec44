"""RandAugment against the published outputs, Pillow and SciPy."""

import collections
import pathlib

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from experiments.data.augment import operations, randaugment

GOLDEN = np.load(pathlib.Path(__file__).parents[3] / 'golden' / 'preprocess.npz')
CASES = [name for name in GOLDEN.files if name.startswith('randaugment/')]
ALL_QUIRKS_OFF = randaugment.CORRECTED


class FixedSign:
  """Stands in for a generator, so that a signed operation takes the sign of the golden case."""

  def __init__(self, positive: bool):
    self.positive = positive

  def random(self) -> float:
    return 0.25 if self.positive else 0.75


@pytest.fixture(scope='module')
def picture() -> np.ndarray:
  """A smooth uint8 [71, 90, 3] picture with saturated areas, so that edges and sums are tested."""
  noise = np.random.default_rng(7).normal(size=(71, 90, 3))
  smooth = scipy.ndimage.gaussian_filter(noise, (4, 4, 0))
  return np.clip(128 + smooth / smooth.std() * 90, 0, 255).astype(np.uint8)


def apply(name, image, magnitude, positive=True, options=randaugment.PUBLISHED):
  return randaugment.apply(name, image, magnitude, FixedSign(positive), options)


@pytest.mark.parametrize('case', CASES)
def test_equals_the_published_output(case):
  _, level, variant = case.split('/')
  name, _, sign = variant.partition('_')
  result = apply(name, GOLDEN['image'], int(level.removeprefix('level')), sign != 'neg')
  np.testing.assert_array_equal(result, GOLDEN[case])


def test_golden_covers_every_operation_but_cutout():
  covered = {case.split('/')[2].partition('_')[0] for case in CASES}
  assert covered == set(randaugment.OPERATIONS) - {'Cutout'}
  assert len(randaugment.OPERATIONS) == 16


@pytest.mark.parametrize('positive', [True, False])
@pytest.mark.parametrize('magnitude', [3, 15, 20])
@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY'])
def test_geometry_equals_scipy_at_any_magnitude(name, magnitude, positive, picture):
  level = magnitude / 10 * (1 if positive else -1)
  angle = np.deg2rad(30 * level)
  matrix, shift = np.eye(2), np.zeros(2)  # on (row, column)
  if name == 'Rotate':
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array(picture.shape[:2]) - 1) / 2
    shift = centre - matrix @ centre
  elif name.startswith('Shear'):
    matrix['YX'.index(name[-1]), 'XY'.index(name[-1])] = 0.3 * level
  else:
    shift['YX'.index(name[-1])] = 100 * level
  expected = np.stack(
    [
      scipy.ndimage.affine_transform(
        picture[..., c], matrix, shift, order=0, mode='grid-constant', cval=128
      )
      for c in range(3)
    ],
    axis=-1,
  )
  result = apply(name, picture, magnitude, positive)
  assert (result != expected).any(-1).mean() <= 0.01


def test_positive_rotation_is_counterclockwise():
  image = np.zeros((5, 5, 3), np.uint8)
  image[2, 4] = 255  # right of the centre
  np.testing.assert_array_equal(np.argwhere(operations.rotate(image, 90)[..., 0]), [[0, 2]])


def test_tables_equal_pillow(picture):
  pillow = Image.fromarray(picture)
  np.testing.assert_array_equal(operations.equalize(picture), ImageOps.equalize(pillow))
  np.testing.assert_array_equal(operations.invert(picture), ImageOps.invert(pillow))
  for bits in range(1, 9):
    np.testing.assert_array_equal(
      operations.posterize(picture, bits), ImageOps.posterize(pillow, bits)
    )
  for threshold in (0, 77, 256):
    np.testing.assert_array_equal(
      operations.solarize(picture, threshold), ImageOps.solarize(pillow, threshold)
    )


@pytest.mark.parametrize('name', ['color', 'contrast', 'brightness', 'sharpness'])
@pytest.mark.parametrize('factor', [0.1, 0.64, 1.0, 2.8])
def test_blends_are_within_rounding_of_pillow(name, factor, picture):
  pillow = getattr(ImageEnhance, name.title())(Image.fromarray(picture)).enhance(factor)
  arguments = (False,) if name == 'contrast' else ()
  result = getattr(operations, name)(picture, factor, *arguments)
  # Pillow rounds its degenerate picture where TensorFlow truncates: 1 level, times |1 - factor|.
  difference = np.abs(result.astype(int) - np.asarray(pillow))
  assert difference.max() <= 1 + abs(1 - factor)


def test_flat_channels_and_small_pictures_survive():
  flat = np.full((6, 4, 3), 9, np.uint8)
  np.testing.assert_array_equal(operations.autocontrast(flat), flat)
  np.testing.assert_array_equal(operations.equalize(flat), flat)
  dot = np.full((1, 1, 3), 200, np.uint8)
  for name in randaugment.OPERATIONS:
    result = randaugment.apply(name, dot, 12, np.random.default_rng(0))
    assert result.shape == (1, 1, 3)
    assert result.dtype == np.uint8


def test_solarize_quirk(picture):
  np.testing.assert_array_equal(apply('Solarize', picture, 10), 255 - picture)
  np.testing.assert_array_equal(
    apply('Solarize', picture, 15), np.where(picture < 128, picture, 255 - picture)
  )
  for magnitude in (10, 15):
    result = apply('Solarize', picture, magnitude, options=ALL_QUIRKS_OFF)
    np.testing.assert_array_equal(result, picture)


def test_contrast_quirk():
  image = np.full((32, 40, 3), 200, np.uint8)  # area / 256 = 5
  assert (apply('Contrast', image, 0) == int(5 + 0.1 * 195)).all()
  result = apply('Contrast', image, 10, options=ALL_QUIRKS_OFF)
  np.testing.assert_allclose(result.astype(int), 200, atol=1)


@pytest.mark.parametrize('name', ['Color', 'Contrast', 'Brightness', 'Sharpness'])
def test_factor_quirk(name, picture):
  np.testing.assert_array_equal(apply(name, picture, 5), picture)
  np.testing.assert_array_equal(apply(name, picture, 0, options=ALL_QUIRKS_OFF), picture)
  changes = [
    [
      np.abs(apply(name, picture, magnitude, sign, ALL_QUIRKS_OFF).astype(int) - picture).mean()
      for magnitude in (2, 5, 9)
    ]
    for sign in (True, False)
  ]
  assert (np.diff(changes) > 0).all()


def test_posterize_base_bits(picture):
  options = randaugment.Options(posterize_base_bits=4)
  np.testing.assert_array_equal(apply('Posterize', picture, 10, options=options), picture)
  np.testing.assert_array_equal(apply('Posterize', picture, 0, options=options), picture & 0xF0)
  np.testing.assert_array_equal(apply('Posterize', picture, 0), picture & 0x80)
  np.testing.assert_array_equal(apply('Posterize', picture, 30), picture)


def test_cutout_greys_a_clipped_square_about_a_uniform_centre():
  image = np.zeros((30, 50, 3), np.uint8)
  rng = np.random.default_rng(3)
  options = randaugment.Options(cutout_pixels=10)
  rows, columns = [], []
  for _ in range(2000):
    result = randaugment.apply('Cutout', image, 5, rng, options)
    assert set(np.unique(result)) == {0, 128}
    covered = result[..., 0] > 0
    used = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    assert covered.sum() == len(used[0]) * len(used[1])
    # The square covers centre - 5 .. centre + 4, clipped.
    rows.append(used[0][-1] - 4 if used[0][-1] < 29 else used[0][0] + 5)
    columns.append(used[1][-1] - 4 if used[1][-1] < 49 else used[1][0] + 5)
  for centres, length in ((rows, 30), (columns, 50)):
    counts = np.bincount(centres, minlength=length)
    assert len(counts) == length
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY'])
def test_signs_are_balanced(name):
  image = GOLDEN['image']
  positive, negative = apply(name, image, 3), apply(name, image, 3, positive=False)
  rng = np.random.default_rng(4)
  results = [randaugment.apply(name, image, 3, rng) for _ in range(1000)]
  count = sum(np.array_equal(result, positive) for result in results)
  assert count + sum(np.array_equal(result, negative) for result in results) == 1000
  assert scipy.stats.binomtest(count, 1000).pvalue > 1e-3


def test_operations_are_drawn_uniformly_and_in_sequence(monkeypatch):
  calls = []
  monkeypatch.setattr(
    randaugment, 'apply', lambda name, image, *_: calls.append(name) or image + np.uint8(1)
  )
  rng = np.random.default_rng(5)
  image = np.zeros((2, 2, 3), np.uint8)
  for _ in range(1000):
    assert (randaugment.rand_augment(image, rng, 4, 10) == 4).all()
  counts = collections.Counter(calls)
  assert set(counts) == set(randaugment.OPERATIONS)
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_a_function_of_the_generator_that_leaves_its_input_alone(picture):
  original = picture.copy()
  picture.setflags(write=False)
  first, again, other = (
    [randaugment.rand_augment(picture, np.random.default_rng((s, i)), 4, 15) for i in range(30)]
    for s in (1, 1, 2)
  )
  np.testing.assert_array_equal(picture, original)
  np.testing.assert_array_equal(first, again)
  assert any((a != b).any() for a, b in zip(first, other, strict=True))


def test_strided_pictures_and_subsets_of_operations(picture):
  flipped = picture[:, ::-1]
  for name in randaugment.OPERATIONS:
    rngs = np.random.default_rng(0), np.random.default_rng(0)
    np.testing.assert_array_equal(
      randaugment.apply(name, flipped, 8, rngs[0]),
      randaugment.apply(name, flipped.copy(), 8, rngs[1]),
    )
  result = randaugment.rand_augment(picture, np.random.default_rng(0), 3, 8, names=['Invert'])
  np.testing.assert_array_equal(result, 255 - picture)


def test_to_uint8_clips_and_truncates():
  image = np.array([[[-3.0, 254.99, 300.0]]], np.float32)
  np.testing.assert_array_equal(randaugment.to_uint8(image), np.uint8([[[0, 254, 255]]]))


def test_bad_input_is_refused(picture):
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="No operation is called 'Blur': choose one of"):
    randaugment.apply('Blur', picture, 5, rng)
  for magnitude in (-1, float('nan'), float('inf')):
    with pytest.raises(ValueError, match='must be finite and 0 or more'):
      randaugment.apply('Invert', picture, magnitude, rng)
  for image in (picture.astype(np.float32), picture[..., 0], picture[None], picture[:0]):
    with pytest.raises(ValueError, match='expect one uint8'):
      randaugment.rand_augment(image, rng, 2, 5)
  with pytest.raises(ValueError, match='num_layers=-1'):
    randaugment.rand_augment(picture, rng, -1, 5)
  with pytest.raises(ValueError, match='at least one operation'):
    randaugment.rand_augment(picture, rng, 1, 5, names=())
