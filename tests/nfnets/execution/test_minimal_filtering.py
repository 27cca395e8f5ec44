"""Gradients of 3x3 weights by minimal filtering, against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.execution import convolve, strategy

QUICKLY = {'xla_backend_optimization_level': 0}  # compiled


def gradients(choices, x, w, cotangent, **window):
  """Of the inputs and of the weights."""

  def pulled(x, w):
    with strategy(**choices):
      return jax.vjp(lambda x, w: convolve(x, w, **window), x, w)[1](cotangent)

  return jax.device_get(jax.jit(pulled, compiler_options=QUICKLY)(x, w))


FILTERED = {'convolutions': 'cpu', 'training_step': True, 'minimal_filtering': 'on'}
PLAIN = {'convolutions': 'plain'}


@pytest.mark.parametrize(
  ('size', 'stride', 'padding', 'groups'),
  [
    ((6, 9), 1, 'SAME', 1),
    ((7, 5), 1, 'VALID', 2),
    ((8, 4), 2, 'SAME', 2),
    ((9, 7), 2, ((0, 2), (3, 0)), 1),
    ((1, 2), 1, 'SAME', 1),
  ],
)
def test_equals_the_gradient_of_the_convolution(size, stride, padding, groups):
  rng = np.random.default_rng(0)
  window = {'stride': stride, 'padding': padding, 'groups': groups}
  with jax.enable_x64(True):
    x = jnp.asarray(rng.standard_normal((2, *size, 8)))
    w = jnp.asarray(rng.standard_normal((3, 3, 8 // groups, 12)))
    shape = jax.eval_shape(lambda x, w: convolve(x, w, **window), x, w).shape
    cotangent = jnp.asarray(rng.standard_normal(shape))
    ours = gradients(FILTERED, x, w, cotangent, **window)
    plain = gradients(PLAIN, x, w, cotangent, **window)
  for a, b in zip(ours, plain, strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-11)


@pytest.mark.parametrize('stride', [1, 2])
def test_rounds_by_less_than_1e_5_of_the_largest_gradient_in_float32(stride):
  rng = np.random.default_rng(1)
  x = rng.standard_normal((8, 24, 24, 32))
  w = rng.standard_normal((3, 3, 32, 32))
  cotangent = rng.standard_normal((8, 24 // stride, 24 // stride, 32))
  arrays = [jnp.float32(a) for a in (x, w, cotangent)]
  ours = gradients(FILTERED, *arrays, stride=stride)[1]
  with jax.enable_x64(True):
    exact = gradients(PLAIN, *(jnp.asarray(a, 'float64') for a in arrays), stride=stride)[1]
  assert np.abs(ours - exact).max() < 1e-5 * np.abs(exact).max()


def test_has_gradients_of_gradients():
  rng = np.random.default_rng(2)
  with jax.enable_x64(True):
    x = jnp.asarray(rng.standard_normal((1, 6, 6, 2)))
    w = jnp.asarray(rng.standard_normal((3, 3, 2, 3)))

    def second(choices):
      def loss(x, w):
        with strategy(**choices):
          return jnp.sum(jnp.sin(convolve(x, w)))

      def squares(x, w):
        return jnp.sum(jax.grad(loss, 1)(x, w) ** 2)

      gradient = jax.jit(jax.grad(squares), compiler_options=QUICKLY)
      return jax.device_get(gradient(x, w))

    np.testing.assert_allclose(second(FILTERED), second(PLAIN), rtol=1e-9, atol=1e-9)


def _is_filtered(x, w, **window):
  """Whether the gradient of the weights has products of matrices and no convolution."""
  choices = {'convolutions': 'cpu', 'training_step': True} | {
    name: window.pop(name) for name in ('training_step', 'minimal_filtering') if name in window
  }
  x, w = jnp.zeros(x, window.pop('dtype', 'float32')), jnp.zeros(w)
  w = w.astype(x.dtype)

  def gradient(x, w):
    with strategy(**choices):
      return jax.grad(lambda w: jnp.sum(convolve(x, w, **window)))(w)

  return 'dot_general' in str(jax.make_jaxpr(gradient)(x, w))


@pytest.mark.parametrize(
  ('x', 'w', 'choices', 'expected'),
  [
    ((8, 48, 48, 128), (3, 3, 128, 128), {}, True),
    ((8, 12, 12, 768), (3, 3, 128, 768), {'groups': 6}, True),
    ((8, 24, 24, 768), (3, 3, 128, 768), {'groups': 6, 'stride': 2}, True),
    ((8, 56, 56, 64), (3, 3, 64, 64), {}, True),
    ((8, 56, 56, 64), (3, 3, 64, 64), {'minimal_filtering': 'off'}, False),
    ((8, 56, 56, 64), (3, 3, 64, 64), {'training_step': False}, False),  # has a forward mode
    ((8, 56, 56, 64), (3, 3, 64, 64), {'dtype': 'bfloat16'}, False),
    ((8, 96, 96, 16), (3, 3, 16, 32), {}, False),  # narrow
    ((8, 96, 96, 16), (3, 3, 16, 32), {'minimal_filtering': 'on'}, True),
    ((8, 7, 7, 384), (3, 3, 64, 384), {'groups': 6}, False),  # tiles hang over
    ((1, 48, 48, 128), (3, 3, 128, 128), {}, False),  # of a private run
    ((8, 48, 48, 128), (5, 5, 128, 128), {'minimal_filtering': 'on'}, False),
    ((8, 48, 48, 128), (3, 3, 128, 128), {'minimal_filtering': 'on', 'rate': 2}, False),
  ],
)
def test_is_chosen_by_shape(x, w, choices, expected):
  assert _is_filtered(x, w, **choices) == expected
