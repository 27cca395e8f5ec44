"""The theory against integrals of scipy and arithmetic by hand."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from nfnets import mean_field, nfnet, zoo
from nfnets.baselines import ResNetSpec

ALPHA2 = 0.2**2


def gelu_tanh(x):
  return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize('variance', [0.01, 0.3, 1.0, 4.0])
def test_moments_of_gelu_are_scipys_integrals(variance):
  density = stats.norm(scale=math.sqrt(variance)).pdf
  mean, square = (
    integrate.quad(lambda x, p=p: gelu_tanh(x) ** p * density(x), -30, 30, points=[0], limit=200)[0]
    for p in (1, 2)
  )
  got = mean_field.activation_moments('gelu', variance, gamma=2.0)
  np.testing.assert_allclose(got, [2 * mean, 4 * (square - mean**2)], rtol=1e-4)


def test_a_relu_network_follows_the_design():
  # relu is homogeneous, so V(q) = q, and strided shortcuts do not average.
  spec = zoo.get_spec('NF-ResNet-50')
  by_hand = [1 + ALPHA2 * k for depth in (3, 4, 6, 3) for k in range(1, depth + 1)]
  moments = mean_field.predict(spec)
  np.testing.assert_allclose([m.variance for m in moments], by_hand, rtol=0.02)
  np.testing.assert_allclose(mean_field.design(spec), by_hand, rtol=1e-12)
  np.testing.assert_allclose([m.branch_variance for m in moments], 1, rtol=0.05)


def test_average_pooling_divides_by_the_window():
  spec = nfnet.ModelSpec(
    width=(8, 16, 16), depth=(1, 1, 2), stride=(1, 2, 3), group_width=4, activation='identity'
  )
  # The identity keeps q; beta divides by what the design expects.
  first = 1 + ALPHA2
  second = 1 / 4 + ALPHA2  # 1.04 / 1.04, pooled 2 x 2, and the branch
  normalised = second / (1 + ALPHA2)
  third = normalised / 9 + ALPHA2 * normalised
  fourth = third + ALPHA2 * third / (1 + ALPHA2)
  got = [m.variance for m in mean_field.predict(spec)]
  np.testing.assert_allclose(got, [first, second, third, fourth], rtol=1e-6)


def test_batch_normalisation_grows_by_one_a_block():
  spec = ResNetSpec(depth=(3, 2), width=(128, 256), stride=(1, 2))
  moments = mean_field.predict_baseline(spec)
  np.testing.assert_allclose(
    [m.variance + m.squared_mean for m in moments], [2, 3, 4, 2, 3], rtol=0.01
  )
  variance = [(1 - 1 / math.pi) * k for k in (2, 3, 4, 2, 3)]
  np.testing.assert_allclose([m.variance for m in moments], variance, rtol=0.01)
  np.testing.assert_allclose([m.branch_variance for m in moments], 1 - 1 / math.pi, rtol=0.01)

  unchanged = ResNetSpec(depth=(2,), width=(64,), stride=(1,))  # as wide as its stem: no transition
  got = [m.variance for m in mean_field.predict_baseline(unchanged)]
  np.testing.assert_allclose(got, [2 + (1 - 1 / math.pi) * k for k in (1, 2)], rtol=0.01)


def test_activations_that_mix_channels_have_no_theory():
  with pytest.raises(ValueError, match="no theory for 'glu'"):
    mean_field.activation_moments('glu')
