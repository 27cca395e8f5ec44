"""AutoAugment: the policies as data, and how often their steps are applied."""

import collections

import numpy as np
import pytest
import scipy.stats

from experiments.data.augment import autoaugment, randaugment

IMAGE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def calls(monkeypatch):
  """Records (name, magnitude, options) instead of applying the operations."""
  made = []

  def record(name, image, magnitude, rng, options):
    made.append((name, magnitude, options))
    return image

  monkeypatch.setattr(randaugment, 'apply', record)
  return made


@pytest.mark.parametrize('name', ['v0', 'paper'])
def test_policies_are_25_pairs_within_range(name):
  policy = autoaugment.POLICIES[name]
  assert [len(pair) for pair in policy] == [2] * 25
  for operation, probability, magnitude in sum(policy, ()):
    assert operation in randaugment.OPERATIONS
    assert 0 <= probability <= 1
    assert magnitude in range(11)


def test_spot_checks_of_the_published_tables():
  v0, paper = autoaugment.POLICIES['v0'], autoaugment.POLICIES['paper']
  assert v0[0] == (('Equalize', 0.8, 1), ('ShearY', 0.8, 4))
  assert v0[21] == (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7))
  assert paper[0] == (('Posterize', 0.4, 8), ('Rotate', 0.6, 9))
  assert paper[17] == (('Sharpness', 0.4, 7), ('Invert', 0.6, 8))
  steps = collections.Counter(step[0] for step in sum(v0, ()))
  assert steps['Equalize'] == 12
  assert steps['Color'] == 9
  assert steps['Solarize'] == 8
  steps = collections.Counter(step[0] for step in sum(paper, ()))
  assert steps['Equalize'] == 17
  assert 'SolarizeAdd' not in steps


@pytest.mark.parametrize('policy', ['v0', 'paper'])
def test_steps_are_applied_as_often_as_the_policy_says(policy, calls):
  draws = 5000
  rng = np.random.default_rng(1)
  for _ in range(draws):
    autoaugment.auto_augment(IMAGE, rng, policy)
  expected = collections.Counter()
  for name, probability, magnitude in sum(autoaugment.POLICIES[policy], ()):
    expected[name, magnitude] += probability * draws / 25
  found = collections.Counter((name, magnitude) for name, magnitude, _ in calls)
  for step, mean in expected.items():
    assert abs(found[step] - mean) <= 5 * max(mean, 1) ** 0.5, step
  assert not set(found) - {step for step, mean in expected.items() if mean > 0}


def test_sub_policies_are_drawn_uniformly(calls):
  policy = tuple((('Invert', 1.0, i),) for i in range(10))
  rng = np.random.default_rng(2)
  for _ in range(2000):
    autoaugment.auto_augment(IMAGE, rng, policy)
  counts = collections.Counter(magnitude for _, magnitude, _ in calls)
  assert scipy.stats.chisquare([counts[i] for i in range(10)]).pvalue > 1e-3


def test_steps_run_in_order():
  policy = ((('Solarize', 1.0, 5), ('Invert', 1.0, 0), ('Posterize', 1.0, 5)),)
  expected = (255 - np.where(IMAGE < 128, IMAGE, 255 - IMAGE)) & 0xC0
  result = autoaugment.auto_augment(IMAGE, np.random.default_rng(0), policy)
  np.testing.assert_array_equal(result, expected)


def test_ranges_are_those_of_autoaugment(calls):
  rng = np.random.default_rng(3)
  for policy in ('v0', 'paper', ((('Invert', 1.0, 0),),)):
    for _ in range(20):
      autoaugment.auto_augment(IMAGE, rng, policy)
  options = {used for _, _, used in calls}
  assert {used.translate_pixels for used in options} == {250}
  assert {used.cutout_pixels for used in options} == {100}
  assert {used.posterize_base_bits for used in options} == {0, 4}
  calls.clear()
  autoaugment.auto_augment(IMAGE, rng, ((('Invert', 1.0, 0),),), randaugment.CORRECTED)
  assert calls[0][2] is randaugment.CORRECTED


def test_a_function_of_the_generator_that_leaves_its_input_alone():
  original = IMAGE.copy()
  first, again = (
    [autoaugment.auto_augment(IMAGE, np.random.default_rng(i)) for i in range(40)] for _ in range(2)
  )
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(IMAGE, original)
  assert len({result.tobytes() for result in first}) > 10


def test_bad_policies_are_refused():
  rng = np.random.default_rng(0)
  with pytest.raises(ValueError, match="No AutoAugment policy is called 'v9': choose one of v0"):
    autoaugment.auto_augment(IMAGE, rng, 'v9')
  with pytest.raises(ValueError, match='policy is empty'):
    autoaugment.auto_augment(IMAGE, rng, ())
  with pytest.raises(ValueError, match='No operation is called'):
    autoaugment.auto_augment(IMAGE, rng, ((('Blur', 1.0, 1),),))
