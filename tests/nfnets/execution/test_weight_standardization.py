"""The written-out derivative of weight standardisation against automatic differentiation."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.execution import standardize, strategy


def reference(w, gain, epsilon=1e-4, added=False):
  """The definition, [SigProp] equation 2, for JAX to differentiate."""
  fan_in = math.prod(w.shape[:-1])
  mean = jnp.mean(w, axis=tuple(range(w.ndim - 1)), keepdims=True)
  variance = jnp.mean((w - mean) ** 2, axis=tuple(range(w.ndim - 1)), keepdims=True)
  divisor = fan_in * (variance + epsilon) if added else jnp.maximum(fan_in * variance, epsilon)
  return (w - mean) / jnp.sqrt(divisor) * gain


def weights(shape=(3, 3, 5, 6), dtype=np.float64):
  rng = np.random.default_rng(0)
  w = rng.standard_normal(shape) * np.linspace(0.1, 2, shape[-1])
  w[..., 1] = w[..., 1] * 1e-4 + 3.0  # below epsilon: the divisor does not vary
  w[..., 2] += 100.0
  return jnp.asarray(w, dtype), jnp.asarray(rng.uniform(0.5, 2, shape[-1]), dtype)


@pytest.mark.parametrize('added', [False, True])
@pytest.mark.parametrize('shape', [(3, 3, 5, 6), (1, 1, 7, 6), (4, 6)])
def test_values_and_derivatives_of_both_modes_equal_automatic_ones(shape, added):
  with jax.enable_x64(True):
    w, gain = weights(shape)
    rng = np.random.default_rng(1)
    tangents = tuple(jnp.asarray(rng.standard_normal(x.shape)) for x in (w, gain))
    cotangent = jnp.asarray(rng.standard_normal(w.shape))

    def ours(w, gain):
      return standardize(w, gain, epsilon_added_to_variance=added)

    def theirs(w, gain):
      return reference(w, gain, added=added)

    for mine, want in zip(
      (*jax.jvp(ours, (w, gain), tangents), *jax.vjp(ours, w, gain)[1](cotangent)),
      (*jax.jvp(theirs, (w, gain), tangents), *jax.vjp(theirs, w, gain)[1](cotangent)),
      strict=True,
    ):
      np.testing.assert_allclose(mine, want, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('added', [False, True])
def test_recomputed_values_and_gradients_equal_automatic_ones(added):
  with jax.enable_x64(True):
    w, gain = weights()
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(w.shape))

    def ours(w, gain):
      with strategy('cpu', training_step=True):
        return standardize(w, gain, epsilon_added_to_variance=added)

    def theirs(w, gain):
      return reference(w, gain, added=added)

    got, pull = jax.vjp(ours, w, gain)
    want, pull_reference = jax.vjp(theirs, w, gain)
    for mine, expected in zip(
      (got, *pull(cotangent)), (want, *pull_reference(cotangent)), strict=True
    ):
      np.testing.assert_allclose(mine, expected, rtol=1e-8, atol=1e-8)


def test_second_derivatives_and_vmap():
  with jax.enable_x64(True):
    w, gain = weights((2, 2, 3, 6))
    w = w.at[..., 1].set(jnp.flip(w[..., 0]))  # away from the kink at epsilon

    def curvature(function):
      def loss(w):
        return jnp.sum(jnp.sin(function(w, gain)))

      return jax.grad(lambda w: jnp.sum(jax.grad(loss)(w) ** 3))(w)

    want = curvature(reference)
    np.testing.assert_allclose(curvature(standardize), want, atol=1e-9 * float(jnp.abs(want).max()))
    many = jnp.stack([w, 2 * w + 1])
    np.testing.assert_allclose(
      jax.vmap(lambda w: standardize(w, gain))(many),
      jnp.stack([reference(x, gain) for x in many]),
      rtol=1e-9,
    )


def test_a_mean_far_above_the_standard_deviation_costs_few_digits():
  # The mean itself is only known to 1e-7 of 1000. E[w^2] - E[w]^2 would be off by 6%.
  rng = np.random.default_rng(0)
  w = np.float32(1000 + rng.standard_normal((3, 3, 64, 4)))
  with jax.enable_x64(True):
    exact = np.asarray(reference(jnp.asarray(w, jnp.float64), jnp.ones(4)))
  got = standardize(jnp.asarray(w), jnp.ones(4))
  np.testing.assert_allclose(got, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


def test_a_constant_filter_stays_zero_and_its_gradient_finite():
  w = jnp.full((3, 3, 4, 2), 7.0)
  value, pull = jax.vjp(lambda w: standardize(w, jnp.ones(2)), w)
  np.testing.assert_array_equal(value, 0.0)
  assert np.isfinite(pull(jnp.ones_like(w))[0]).all()
