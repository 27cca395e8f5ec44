"""SAM against two steps by hand on a quadratic."""

import functools

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


# 1e-45 is the smallest number of float32; below 1.2e-38, processors take numbers for zeros.
@pytest.mark.parametrize('size', [1e-45, 1e-42, 1e-38, 1e-30, 1e-21, 1e-5, 1e5, 1e19, 1e30, 3e38])
def test_the_step_has_length_rho_whatever_the_norm(size):
  rng = np.random.default_rng(0)
  grads = {'a': rng.uniform(-1, 1, (3, 4)), 'b': rng.uniform(-1, 1, 5)}
  grads = {name: (size * value).astype(np.float32) for name, value in grads.items()}
  grads['b'][0] = size  # so that not all of the smallest are rounded to zero
  norm = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in grads.values()))
  params = jax.tree.map(np.zeros_like, grads)
  climb = functools.partial(optim.sam.perturb, rho=0.05)
  on_devices = jax.tree.map(lambda x: x[None], (params, grads))
  moved = [climb(params, grads), jax.jit(climb)(params, grads)]
  moved.append(jax.tree.map(lambda x: x[0], jax.pmap(climb)(*on_devices)))
  for tree in moved:
    for name, value in tree.items():
      want = 0.05 * grads[name].astype(np.float64) / norm
      np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_gradients_of_few_bits(dtype):
  params = {'a': jnp.zeros(64, dtype), 'b': jnp.zeros((), jnp.float32)}
  grads = {'a': jnp.full(64, 60000.0, dtype), 'b': jnp.float32(0)}  # of norm 480,000
  moved = optim.sam.perturb(params, grads, 0.08)
  assert moved['a'].dtype == dtype
  np.testing.assert_allclose(moved['a'].astype(np.float32), 0.01, rtol=1e-2)


def test_what_is_not_a_number_does_not_hide():
  params, grads = {'a': jnp.zeros(2), 'b': jnp.zeros(2)}, {'a': jnp.ones(2), 'b': jnp.ones(2)}
  grads['a'] = grads['a'].at[0].set(jnp.nan)
  assert all(np.isnan(x).all() for x in optim.sam.perturb(params, grads, 0.05).values())


def test_parameters_without_a_gradient_stay_and_other_trees_are_refused():
  params = {'a': jnp.ones(2), 'b': jnp.zeros(2)}
  moved = optim.sam.perturb(params, {'a': None, 'b': jnp.array([3.0, 4.0])}, 0.05)
  np.testing.assert_array_equal(moved['a'], params['a'])
  np.testing.assert_allclose(moved['b'], [0.03, 0.04], rtol=1e-6)
  assert optim.sam.perturb(params, {'a': None, 'b': None}, 0.05) is params
  with pytest.raises(ValueError, match="only the parameters have 'a'"):
    optim.sam.perturb(params, {'b': jnp.ones(2)}, 0.05)


def test_rho_may_be_traced():
  params, grads = {'a': jnp.zeros(2)}, {'a': jnp.array([3.0, 4.0])}
  moved = jax.jit(jax.vmap(lambda rho: optim.sam.perturb(params, grads, rho)))(jnp.array([0.05, 1]))
  np.testing.assert_allclose(moved['a'], [[0.03, 0.04], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize('rho', [0.0, -0.05, float('nan')])
def test_rho_must_be_positive(rho):
  with pytest.raises(ValueError, match="SAM's rho must be a positive finite number"):
    optim.sam.perturb({'a': jnp.ones(2)}, {'a': jnp.ones(2)}, rho)
