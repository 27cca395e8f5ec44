"""10,000 draws of everything random in the recipe, against what theory says."""

import collections

import numpy as np
import pytest
import scipy.stats

from experiments.data.augment import autoaugment, crop, mixing, randaugment
from nfnets import images

DRAWS = 10_000
# The Kolmogorov-Smirnov distance that 10,000 draws of the right law exceed once in 10,000 times.
FAR = scipy.stats.kstwo.isf(1e-4, DRAWS)


def rng(seed=0):
  return np.random.default_rng(seed)


# ---------------------------------------------------------------- crops


@pytest.fixture(scope='module')
def boxes():
  generator = rng()
  return np.array([crop.random_crop_box((375, 500, 3), 192, generator) for _ in range(DRAWS)])


@pytest.fixture(scope='module')
def law_of_crops():
  """Area share, aspect and probability of the boxes of a 375 x 500 picture.

  The aspect is uniform; given it, the height is uniform over what area (0.08 to 1) and picture
  allow; boxes of less than a tenth of the picture are drawn again.
  """
  aspects = np.linspace(3 / 4, 4 / 3, 2001)
  shares, weights, ratios = [], [], []
  for aspect in aspects:
    heights = np.arange(1, 376)
    areas = heights * heights * aspect / (375 * 500)
    allowed = (areas >= 0.08) & (areas <= 1) & (heights * aspect <= 500)
    kept = allowed & (areas >= 0.1)
    shares.append(areas[kept])
    ratios.append(np.full(kept.sum(), aspect))
    weights.append(np.full(kept.sum(), 1 / allowed.sum()))
  shares, ratios, weights = map(np.concatenate, (shares, ratios, weights))
  return shares, ratios, weights / weights.sum()


def distance(draws, values, weights):
  """Greatest difference between the distribution of the draws and the weighted values'."""
  order = np.argsort(values)
  values, below = values[order], np.cumsum(weights[order])
  empirical = np.searchsorted(np.sort(draws), values, side='right') / len(draws)
  return np.abs(empirical - below).max()


def test_crop_areas(boxes, law_of_crops):
  areas = boxes[:, 2] * boxes[:, 3] / (375 * 500)
  shares, _, weights = law_of_crops
  assert distance(areas, shares, weights) < FAR + 0.005  # whole pixels: 0.005 at most
  assert areas.mean() == pytest.approx(np.dot(shares, weights), abs=0.01)
  assert np.dot(shares, weights) == pytest.approx(0.39, abs=0.01)  # as measured of TensorFlow


def test_crop_aspects(boxes, law_of_crops):
  aspects = boxes[:, 3] / boxes[:, 2]
  _, ratios, weights = law_of_crops
  assert distance(aspects, ratios, weights) < FAR + 0.005
  assert aspects.mean() == pytest.approx(np.dot(ratios, weights), abs=0.01)


def test_crop_places(boxes):
  # Uniform over the places that are left; TensorFlow never draws the last.
  for place, side, length in ((0, 2, 375), (1, 3, 500)):
    free = length - boxes[:, side]
    wide = free > 50
    shares = (boxes[wide, place] + 0.5) / free[wide]
    assert scipy.stats.kstest(shares, 'uniform').statistic < FAR + 0.01


# ---------------------------------------------------------------- mixing


def test_mixup_ratios():
  first, second = np.zeros((2, 1, 1, 3), np.float32)
  generator = rng(1)
  ratios = np.array([mixing.mixup(first, second, generator)[1] for _ in range(DRAWS)])
  law = scipy.stats.beta(0.2, 0.2)
  inside = (ratios > 1e-3) & (ratios < 1 - 1e-3)  # float32 rounds at the upper end
  expected = law.cdf(1 - 1e-3) - law.cdf(1e-3)
  assert scipy.stats.binomtest(int(inside.sum()), DRAWS, expected).pvalue > 1e-4
  assert scipy.stats.kstest(ratios, law.cdf).statistic < FAR + 0.005
  assert ratios.mean() == pytest.approx(0.5, abs=5 * law.std() / DRAWS**0.5)


def test_cutmix_ratios():
  first, second = np.zeros((2, 96, 96, 3), np.uint8)
  generator = rng(2)
  ratios = np.array([mixing.cutmix(first, second, generator)[1] for _ in range(DRAWS)])
  # The same with real numbers: a square of side sqrt(1 - r) about a uniform centre, cut at 0 and 1.
  draws = rng(3).random((3, 400_000))
  half = np.sqrt(1 - draws[0]) / 2
  sides = [np.minimum(c + half, 1) - np.maximum(c - half, 0) for c in draws[1:]]
  kept = 1 - sides[0] * sides[1]
  assert scipy.stats.ks_2samp(ratios, kept).statistic < FAR + 0.03  # boxes have even sides
  assert ratios.mean() == pytest.approx(kept.mean(), abs=0.02)


# ---------------------------------------------------------------- augmentation


def applied(monkeypatch, augment):
  """Counts the operations of 10,000 layers."""
  counts = collections.Counter()
  monkeypatch.setattr(
    randaugment, 'apply', lambda name, image, *_: (counts.update([name]), image)[1]
  )
  image, generator = np.zeros((1, 1, 3), np.uint8), rng(4)
  augment(image, generator)
  return counts


def test_operations_are_equally_frequent(monkeypatch):
  def augment(image, generator):
    for _ in range(DRAWS // 4):
      randaugment.rand_augment(image, generator, 4, 5)

  counts = applied(monkeypatch, augment)
  assert sum(counts.values()) == DRAWS
  assert len(counts) == 16
  assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-4


def test_autoaugment_steps_come_as_often_as_the_policy_says(monkeypatch):
  def augment(image, generator):
    for _ in range(DRAWS):
      autoaugment.auto_augment(image, generator)

  counts = applied(monkeypatch, augment)
  policy = autoaugment.POLICIES['v0']
  expected = collections.Counter()
  for name, probability, _ in (step for pair in policy for step in pair):
    expected[name] += probability * DRAWS / len(policy)
  for name, mean in expected.items():
    assert counts[name] == pytest.approx(mean, abs=5 * mean**0.5), name


@pytest.mark.parametrize('name', ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY'])
def test_signs_are_balanced(name):
  image = rng(5).integers(0, 100, (9, 9, 3), dtype=np.uint8)
  generator, options = rng(6), randaugment.Options(translate_pixels=4)
  outcomes = collections.Counter(
    randaugment.apply(name, image, 10, generator, options).tobytes() for _ in range(DRAWS // 5)
  )
  assert len(outcomes) == 2
  assert scipy.stats.binomtest(min(outcomes.values()), DRAWS // 5, 0.5).pvalue > 1e-4


def test_flips_are_balanced():
  image = rng(8).integers(0, 256, (40, 40, 3), dtype=np.uint8)
  generator, whole = rng(7), {'area': (1, 1), 'aspect': (1, 1)}  # always the padded centre
  cuts = (crop.random_cut(image.shape, 8, generator, flip=True, **whole) for _ in range(DRAWS))
  outcomes = collections.Counter(
    images.resize_bicubic(image, (8, 8), box=box, mirror=mirror).tobytes() for box, mirror in cuts
  )
  assert len(outcomes) == 2
  assert scipy.stats.binomtest(min(outcomes.values()), DRAWS, 0.5).pvalue > 1e-4
