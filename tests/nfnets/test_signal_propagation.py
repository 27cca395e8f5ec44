import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import signal_propagation as sp


def test_the_two_statistics_by_hand():
  # Two channels: means 1 and -3, variances 0 and 4.
  x = jnp.stack([jnp.ones((1, 2, 2)), jnp.array([[[-1.0, -5.0], [-1.0, -5.0]]])], axis=-1)
  assert float(sp.average_squared_mean(x)) == pytest.approx((1 + 9) / 2)
  assert float(sp.average_variance(x)) == pytest.approx((0 + 4) / 2)


def test_any_network_is_measured_in_order_without_code_in_it():
  def network(x):
    x = hk.Conv2D(4, 3, name='second_by_name')(x)
    return hk.Conv2D(6, 3, name='a_last')(x)

  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params = hk.transform(network).init(jax.random.key(1), x)
  statistics, out = sp.measure(network, params, x)
  assert list(statistics) == ['second_by_name', 'a_last']
  expected = hk.transform(network).apply(params, None, x)
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
  got = statistics['a_last']['average_variance']
  assert float(got) == pytest.approx(np.asarray(expected).var(axis=(0, 1, 2)).mean(), rel=1e-4)
