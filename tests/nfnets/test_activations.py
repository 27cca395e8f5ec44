import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import activations

# glu halves the channels and log_softmax sees all of them: no integral over one normal variable.
POINTWISE = sorted(set(activations.ACTIVATIONS) - {'glu', 'log_softmax'})


@pytest.mark.parametrize('name', POINTWISE)
def test_gamma_restores_unit_variance_of_a_standard_normal_input(name):
  # Gauss-Hermite quadrature: an oracle that shares nothing with how the constants were found.
  z, weight = np.polynomial.hermite_e.hermegauss(150)
  weight = weight / weight.sum()
  y = np.asarray(activations.get(name).function(jnp.asarray(z, jnp.float32)), np.float64)
  variance = weight @ y**2 - (weight @ y) ** 2
  # The published constants were estimated from samples, so they are good to a few per mille.
  assert activations.get(name).gamma ** 2 * variance == pytest.approx(1.0, rel=6e-3)


@pytest.mark.parametrize('name', ['glu', 'log_softmax'])
def test_gamma_of_activations_over_channels(name):
  z = jax.random.normal(jax.random.key(0), (512, 4096))
  assert float(jnp.var(activations.scaled(name)(z))) == pytest.approx(1.0, rel=1e-2)


def test_scaled_is_gamma_times_the_function_in_the_dtype_of_the_input():
  x = jnp.linspace(-3, 3, 7, dtype=jnp.bfloat16)
  y = activations.scaled('relu')(x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.float32(y), 1.7139588594436646 * np.maximum(np.float32(x), 0), rtol=1e-2
  )


def test_the_two_gelus_differ_as_tanh_and_erf_do():
  x = jnp.float32(2.0)
  assert float(activations.get('gelu').function(x)) == pytest.approx(1.9545977, abs=1e-6)
  assert float(activations.get('gelu_exact').function(x)) == pytest.approx(1.9544997, abs=1e-6)


def test_unknown_activation_is_named_with_the_choices():
  with pytest.raises(ValueError, match=r"'gleu': choose one of celu, elu, gelu"):
    activations.get('gleu')
