"""The declared order of mixing, augmentation and normalisation."""

import dataclasses

import numpy as np
import pytest

from experiments.data.augment import autoaugment, chain, mixing, randaugment
from nfnets import images

RNG = np.random.default_rng
FIRST, SECOND = RNG(0).uniform(-10, 265, (2, 40, 48, 3)).astype(np.float32)


def run(steps, kind, seed=3, second=SECOND):
  out = np.full_like(FIRST, np.nan)
  before = FIRST.copy()
  ratio = steps(FIRST, second, kind, RNG(seed), out)
  np.testing.assert_array_equal(FIRST, before)
  return out, ratio


def test_without_anything_it_only_normalises():
  out, ratio = run(chain.Chain(), 'none', second=None)
  np.testing.assert_array_equal(out, images.normalize(FIRST))  # not clipped
  assert ratio == 1


@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
def test_published_order_mixes_floats_then_augments_bytes(kind):
  steps = chain.Chain(policy='randaugment', layers=4, magnitude=15)
  rng = RNG(3)
  mixed, expected_ratio = mixing.mix_pair(kind, FIRST, SECOND, rng, 0.2)
  expected = randaugment.rand_augment(randaugment.to_uint8(mixed), rng, 4, 15)
  out, ratio = run(steps, kind)
  np.testing.assert_array_equal(out, images.normalize(expected))
  assert ratio == expected_ratio


@pytest.mark.parametrize(
  'order', [('augment', 'mix', 'normalize'), ('augment', 'normalize', 'mix')]
)
@pytest.mark.parametrize('kind', ['none', 'mixup', 'cutmix'])
def test_mixing_after_augmentation(order, kind):
  steps = chain.Chain(order, policy='randaugment', layers=2, magnitude=7, mixup_alpha=1.0)
  rng = RNG(3)
  augmented = [
    randaugment.rand_augment(randaugment.to_uint8(picture), rng, 2, 7).astype(np.float32)
    for picture in (FIRST, SECOND)[: 1 if kind == 'none' else 2]
  ]
  expected, _ = mixing.mix_pair(kind, augmented[0], augmented[-1], rng, 1.0)
  out, _ = run(steps, kind)
  # Mixing and normalising commute but for rounding.
  np.testing.assert_allclose(out, images.normalize(expected), atol=2e-6)


def test_autoaugment_with_its_own_ranges_and_quirks():
  steps = chain.Chain(policy='autoaugment', autoaugment_policy='paper', quirks=('solarize_wraps',))
  options = dataclasses.replace(
    autoaugment.OPTIONS['paper'], contrast_by_area=False, enhance_from_tenth=False
  )
  for seed in range(20):
    expected = autoaugment.auto_augment(
      randaugment.to_uint8(FIRST), RNG(seed), autoaugment.POLICIES['paper'], options
    )
    np.testing.assert_array_equal(run(steps, 'none', seed)[0], images.normalize(expected))


def test_quirks_are_the_options_of_the_published_code():
  options = dataclasses.asdict(randaugment.PUBLISHED)
  assert all(options[quirk] is True for quirk in chain.QUIRKS)
  none = dataclasses.replace(randaugment.PUBLISHED, **dict.fromkeys(chain.QUIRKS, False))
  assert none == randaugment.CORRECTED
