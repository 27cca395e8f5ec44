"""The variance bookkeeping: it follows the blocks."""

import haiku as hk
import jax
import numpy as np
import pytest

import nfnets
from nfnets import initialization, mean_field, signal_propagation
from nfnets.block_plan import plan_blocks

# The second stage begins without a transition: the same width, stride 1.
SPEC = nfnets.ModelSpec(
  width=(16, 16),
  depth=(4, 4),
  stride=(1, 1),
  group_width=8,
  alpha=1.0,
  activation='relu',
  se_ratio=0.0,
  two_convs=False,
  stem=((3, 1, 8),),
  stochdepth_rate=0.0,
)


def test_a_stage_without_a_transition_goes_on_counting():
  plans = plan_blocks(SPEC)
  assert [plan.is_transition for plan in plans] == [True] + [False] * 7
  # The first block's shortcut starts from 1, and each branch adds alpha^2 = 1.
  np.testing.assert_allclose([p.expected_std**2 for p in plans], np.arange(2, 10), rtol=1e-12)
  np.testing.assert_allclose([1 / p.beta**2 for p in plans], [1, *range(2, 9)], rtol=1e-12)
  np.testing.assert_allclose(mean_field.design(SPEC), np.arange(2, 10), rtol=1e-12)


@pytest.mark.parametrize('name', ['F0', 'NF-ResNet-50', 'NF-RegNet-B0', 'nfnet_l0', 'F3+'])
def test_every_stage_of_the_published_networks_starts_again(name):
  plans = plan_blocks(nfnets.zoo.get_spec(name))
  for previous, plan in zip([None, *plans[:-1]], plans, strict=True):
    starts = previous is None or previous.stage != plan.stage
    assert plan.is_transition == starts


def test_the_measured_variance_is_the_expected_one():
  net = hk.transform(lambda x: nfnets.NFNet(5, SPEC)(x, False))
  images = jax.random.normal(jax.random.key(0), (8, 16, 16, 3))
  params = initialization.open_branches(net.init(jax.random.key(1), images), jax.random.key(2))
  blocks = signal_propagation.measure_blocks(
    lambda x: nfnets.NFNet(5, SPEC)(x, False), params, images
  )
  ratios = np.array([b.average_variance for b in blocks]) / mean_field.design(SPEC)
  assert 0.6 < ratios.min() <= ratios.max() < 1.5, ratios
