"""SAM against two steps by hand on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim


def test_a_step_on_a_quadratic_is_the_one_derived_by_hand():
  # f(x, y) = (a x^2 + b y^2) / 2 has the gradient (a x, b y). SAM's gradient is that at
  # (x, y) + rho (a x, b y) / n, n = |(a x, b y)|: a x (1 + rho a / n), and the same with b, y.
  a, b, x, y, rho, rate = 3.0, 0.5, 1.0, -2.0, 0.05, 0.1
  n = np.hypot(a * x, b * y)
  expected_x = x - rate * a * x * (1 + rho * a / n)
  expected_y = y - rate * b * y * (1 + rho * b / n)

  params = {'one': {'w': jnp.array(x)}, 'two': {'w': jnp.array([y])}}
  gradient = jax.grad(lambda p: (a * p['one']['w'] ** 2 + b * jnp.sum(p['two']['w'] ** 2)) / 2)
  optimizer = optax.sgd(rate)
  perturbed = optim.sam.perturb(params, gradient(params), rho)
  updates, _ = optimizer.update(gradient(perturbed), optimizer.init(params), params)
  params = optax.apply_updates(params, updates)
  np.testing.assert_allclose(params['one']['w'], expected_x, rtol=1e-6)
  np.testing.assert_allclose(params['two']['w'], [expected_y], rtol=1e-6)


def test_the_step_has_length_rho_over_all_parameters_together():
  rng = np.random.default_rng(0)
  params = {'a': rng.normal(size=(3, 4)), 'b': rng.normal(size=5)}
  params = jax.tree.map(jnp.float32, params)
  grads = jax.tree.map(lambda x: jnp.float32(1e3 * rng.normal(size=x.shape)), params)
  moved = optim.sam.perturb(params, grads, 0.05)
  difference = jax.tree.map(lambda m, p: m - p, moved, params)
  np.testing.assert_allclose(optax.global_norm(difference), 0.05, rtol=1e-4)


def test_a_zero_gradient_moves_nothing_and_dtypes_are_kept():
  params = {'a': jnp.ones(3, jnp.bfloat16), 'b': jnp.ones(2)}
  moved = optim.sam.perturb(params, jax.tree.map(lambda x: jnp.zeros(x.shape), params), 0.05)
  for key, value in moved.items():
    assert value.dtype == params[key].dtype
    np.testing.assert_array_equal(value, params[key])


@pytest.mark.parametrize('rho', [0.0, -0.05, float('nan')])
def test_rho_must_be_positive(rho):
  with pytest.raises(ValueError, match="SAM's rho must be a positive finite number"):
    optim.sam.perturb({'a': jnp.ones(2)}, {'a': jnp.ones(2)}, rho)
