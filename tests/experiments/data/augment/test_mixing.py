"""Mixup and CutMix: arithmetic, distributions and who is mixed how."""

import numpy as np
import pytest
import scipy.stats

from experiments.data.augment import mixing, randaugment

RNG = np.random.default_rng


def pictures(seed: int, count: int, dtype=np.float32, size=(12, 16)) -> np.ndarray:
  return RNG(seed).uniform(-20, 280, (count, *size, 3)).clip(0, 255).astype(dtype)


def test_mixup_averages_with_its_ratio():
  first, second = pictures(0, 2)
  mixed, ratio = mixing.mixup(first, second, RNG(1), alpha=1.0)
  assert 0 < ratio < 1
  assert mixed.dtype == ratio.dtype == np.float32
  np.testing.assert_allclose(mixed, ratio * first + (1 - ratio) * second, rtol=1e-6)


def test_mixup_of_bytes_equals_mixing_floats_and_casting():
  first, second = pictures(0, 2, np.uint8)
  mixed, ratio = mixing.mixup(first, second, RNG(2), alpha=1.0)
  floats, same = mixing.mixup(first.astype(np.float32), second.astype(np.float32), RNG(2), 1.0)
  assert mixed.dtype == np.uint8
  assert ratio == same
  np.testing.assert_array_equal(mixed, randaugment.to_uint8(floats))


@pytest.mark.parametrize('alpha', [0.2, 1.0])
def test_mixup_ratio_follows_beta(alpha):
  first, second = pictures(0, 2, size=(1, 1))
  rng = RNG(3)
  ratios = [mixing.mixup(first, second, rng, alpha)[1] for _ in range(4000)]
  # Beta(0.2, 0.2) piles up at 0 and 1, where float32 rounds: compare away from the ends as well.
  assert scipy.stats.kstest(ratios, scipy.stats.beta(alpha, alpha).cdf).statistic < 0.03
  inside = scipy.stats.beta(alpha, alpha).cdf(0.9) - scipy.stats.beta(alpha, alpha).cdf(0.1)
  count = sum(0.1 < ratio < 0.9 for ratio in ratios)
  assert scipy.stats.binomtest(count, 4000, inside).pvalue > 1e-3


def test_default_alpha_is_the_published_one():
  first, second = pictures(0, 2, size=(1, 1))
  rng = RNG(4)
  ratios = [mixing.mixup(first, second, rng)[1] for _ in range(2000)]
  assert scipy.stats.kstest(ratios, scipy.stats.beta(0.2, 0.2).cdf).statistic < 0.04


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_cutmix_pastes_a_box_and_counts_what_is_kept(dtype):
  first, second = np.zeros((12, 16, 3), dtype), np.ones((12, 16, 3), dtype)
  rng = RNG(5)
  for _ in range(300):
    mixed, ratio = mixing.cutmix(first, second, rng)
    pasted = mixed[..., 0] == 1
    assert mixed.dtype == dtype
    assert pasted.sum() == pasted.any(0).sum() * pasted.any(1).sum()
    np.testing.assert_allclose(ratio, 1 - pasted.mean(), rtol=1e-6, atol=1e-7)
  assert not first.any()


def expected_kept_area() -> float:
  """The mean kept area for a continuous box: 1 - E[clipped length]^2 given the side, integrated.

  A side s about a centre uniform in 0..1 keeps s - s^2/4 of its length within the border, and with
  s = sqrt(1 - r) the density of s is 2s.
  """
  side = np.linspace(0, 1, 100_001)
  return float(1 - np.trapezoid(2 * side * (side - side**2 / 4) ** 2, side))


def test_cutmix_mean_kept_area_is_the_theoretical_one():
  first, second = np.zeros((2, 192, 192, 3), np.uint8)
  rng = RNG(6)
  ratios = np.array([mixing.cutmix(first, second, rng)[1] for _ in range(4000)])
  # Even sides shorten the box by one pixel in 192 on average: under 0.01 of the area.
  error = 5 * ratios.std() / len(ratios) ** 0.5
  assert abs(ratios.mean() - expected_kept_area()) < error + 0.005
  assert ratios.min() < 0.2
  assert ratios.max() > 0.98


def test_cutmix_centre_is_uniform():
  first, second = np.zeros((40, 60, 1), np.uint8), np.ones((40, 60, 1), np.uint8)
  rng = RNG(7)
  covered = np.mean([mixing.cutmix(first, second, rng)[0][..., 0] for _ in range(3000)], axis=0)
  # Symmetric about the middle but for half a pixel, and largest there.
  np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.07)
  assert covered[20, 30] > covered[0, 30] > covered[0, 0]


def test_mixup_and_cutmix_take_turns():
  kinds = [mixing.kind_of('mixup_cutmix', place) for place in range(16)]
  for devices in (1, 2, 4, 8):
    for part in np.reshape(kinds, (devices, -1)):
      assert sorted(part) == ['cutmix'] * (len(part) // 2) + ['mixup'] * (len(part) // 2)
  for recipe in mixing.KINDS:
    assert {mixing.kind_of(recipe, place) for place in range(4)} == {recipe}


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_pair_is_mixed_as_its_kind_says(dtype):
  first, second = pictures(0, 2, dtype)
  image, ratio = mixing.mix_pair('none', first, second, RNG(0))
  assert image is first
  assert ratio == 1
  for kind, function in (('mixup', mixing.mixup), ('cutmix', mixing.cutmix)):
    mixed, expected = (
      mixing.mix_pair(kind, first, second, RNG(2)),
      function(first, second, RNG(2)),
    )
    np.testing.assert_array_equal(mixed[0], expected[0])
    assert mixed[1] == expected[1]
    assert mixed[0].dtype == dtype


def test_bad_input_is_refused():
  images = pictures(0, 2)
  with pytest.raises(ValueError, match="No mixing is called 'blur': choose one of none"):
    mixing.mix_pair('blur', images[0], images[1], RNG(0))
  with pytest.raises(ValueError, match="mixing is 'blur'; choose one of none"):
    mixing.kind_of('blur', 0)
  with pytest.raises(ValueError, match='alpha=0'):
    mixing.mixup(images[0], images[1], RNG(0), 0)
  with pytest.raises(ValueError, match='must agree in dtype and shape'):
    mixing.cutmix(images[0], images[1, :4], RNG(0))
  with pytest.raises(ValueError, match='expects uint8 or float32'):
    mixing.cutmix(images[0].astype(np.float64), images[1], RNG(0))
