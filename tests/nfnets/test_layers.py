import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import execution, layers
from nfnets.execution import convolution, standardize

CONVS = [
  (layers.WSConv1D, (2, 16, 8), 3, {}),
  (layers.WSConv2D, (2, 9, 8, 8), 3, {'stride': 2}),
  (layers.WSConv2D, (2, 8, 8, 8), 3, {'feature_group_count': 4}),
  (layers.WSConv3D, (2, 5, 6, 7, 4), (3, 1, 3), {}),
  (layers.WSConv2DTranspose, (2, 8, 8, 8), 4, {'stride': 2}),
]


def run(layer, x, params=None, key=0):
  f = hk.without_apply_rng(hk.transform(lambda x: layer()(x)))
  params = params or jax.jit(f.init)(jax.random.key(key), x)
  return jax.jit(f.apply)(params, x), params


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(('layer', 'shape', 'kernel', 'kwargs'), CONVS)
def test_parameters_and_dtypes(layer, shape, kernel, kwargs, dtype):
  x = jnp.ones(shape, dtype)
  y, params = run(lambda: layer(12, kernel, name='c', **kwargs), x)
  assert y.dtype == dtype
  assert y.shape[-1] == 12
  assert set(params['c']) == {'w', 'gain', 'bias'}
  assert params['c']['gain'].shape == params['c']['bias'].shape == (12,)


def test_standardised_weights_have_zero_mean_and_variance_gain_squared_over_fan_in():
  rng = np.random.default_rng(0)
  w = rng.normal(0.3, 2.0, (3, 3, 16, 8)).astype(np.float32)
  gain = np.linspace(0.5, 2.0, 8, dtype=np.float32)
  w_hat = np.asarray(standardize(w, gain), np.float64).reshape(-1, 8)
  np.testing.assert_allclose(w_hat.mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(w_hat.var(0) * 144, gain**2, rtol=1e-5)


def test_the_two_kinds_of_epsilon():
  # Four weights, -s and s: variance s^2, fan-in 4, so both divisors are known by hand.
  s = 1e-3
  w = jnp.array([-s, s, -s, s], jnp.float32).reshape(4, 1)
  ones = jnp.ones(1)
  # fan_in * var = 4e-6 < 1e-4: the divisor is sqrt(1e-4).
  np.testing.assert_allclose(standardize(w, ones)[1, 0], s / 1e-2, rtol=1e-5)
  added = standardize(w, ones, epsilon=1e-5, epsilon_added_to_variance=True)
  np.testing.assert_allclose(added[1, 0], s / np.sqrt(4 * (s**2 + 1e-5)), rtol=1e-5)


def test_a_constant_filter_gives_about_zero_and_finite_gradients():
  w = jnp.full((3, 3, 4, 2), 0.7)
  gradient = jax.grad(lambda w: jnp.sum(standardize(w, jnp.ones(2)) ** 2))(w)
  np.testing.assert_allclose(standardize(w, jnp.ones(2)), 0, atol=1e-4)  # mean rounds
  assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(('layer', 'shape', 'kernel', 'kwargs'), CONVS)
def test_variance_is_preserved_at_initialisation(layer, shape, kernel, kwargs):
  channels = 32
  big = (8, *(32 if s > 1 else 1 for s in shape[1:-1]), channels)
  if len(shape) == 5:
    big = (4, 12, 12, 12, channels)
  x = jax.random.normal(jax.random.key(1), big)
  y, _ = run(lambda: layer(64, kernel, name='c', **kwargs), x)
  inner = y[(slice(None), *(slice(3, -3) for _ in big[1:-1]))]  # borders see padding
  assert float(jnp.var(inner)) == pytest.approx(1.0, rel=0.1)


def test_bfloat16_statistics_are_taken_in_float32():
  # Near-constant filters: bfloat16 sums would lose the variance altogether.
  rng = np.random.default_rng(0)
  w = jnp.asarray(1.0 + 0.05 * rng.standard_normal((3, 3, 256, 4)), jnp.bfloat16)
  gain = jnp.ones(4, jnp.bfloat16)
  expected = standardize(w.astype(jnp.float32), jnp.ones(4))
  got = standardize(w, gain)
  assert got.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(got), expected, rtol=2e-2, atol=1e-4)


def test_wrong_groups_and_ranks_are_named():
  with pytest.raises(ValueError, match='8 input and 12 output channels .* 5 groups'):
    run(lambda: layers.WSConv2D(12, 3, feature_group_count=5, name='c'), jnp.ones((1, 4, 4, 8)))
  with pytest.raises(ValueError, match=r'c expects inputs of rank 4 .* got shape \(1, 4, 8\)'):
    run(lambda: layers.WSConv2D(12, 3, name='c'), jnp.ones((1, 4, 8)))


def test_squeeze_excite_by_hand():
  x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32)
  y, params = run(lambda: layers.SqueezeExcite(4, 2), jnp.asarray(x))
  p = {k.split('/')[-1]: v for k, v in params.items()}
  hidden = np.maximum(x.mean((1, 2)) @ p['linear']['w'] + p['linear']['b'], 0)
  out = 1 / (1 + np.exp(-(hidden @ p['linear_1']['w'] + p['linear_1']['b'])))
  np.testing.assert_allclose(y[:, 0, 0], out, rtol=1e-5)


@pytest.mark.parametrize(('channels', 'kernel'), [(64, 3), (128, 5), (256, 5), (512, 5), (3072, 7)])
def test_efficient_channel_attention(channels, kernel):
  # t = int(|log2(C) + 1| / 2): 3.5, 4, 4.5, 5, 6.29 -> 3, 4, 4, 5, 6 -> odd.
  x = np.random.default_rng(0).standard_normal((2, 3, 3, channels)).astype(np.float32)
  y, params = run(lambda: layers.EfficientChannelAttention(channels), jnp.asarray(x))
  (weights,) = params.values()
  assert weights['w'].shape == (kernel, 1, 1)
  taps = np.asarray(weights['w'][:, 0, 0])
  means = x.mean((1, 2))
  expected = np.stack([np.convolve(row, taps[::-1], 'same') for row in means])
  np.testing.assert_allclose(y[:, 0, 0], 1 / (1 + np.exp(-expected)), rtol=1e-4)


@pytest.mark.parametrize('rescale', [False, True])
def test_stochastic_depth(rescale):
  f = hk.transform(lambda x, t: layers.StochasticDepth(0.25, rescale)(x, t))
  x = jnp.ones((20_000, 1, 2))
  y = np.asarray(f.apply({}, jax.random.key(0), x, True))
  kept = y[:, 0, 0] != 0
  expected = np.where(kept, 1 / 0.75 if rescale else 1.0, 0)[:, None, None]
  np.testing.assert_allclose(y, np.broadcast_to(expected, y.shape), rtol=1e-6)
  assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 20_000)
  np.testing.assert_array_equal(f.apply({}, None, x, False), x)
  with pytest.raises(ValueError, match=r'in \[0, 1\), got 1'):
    hk.transform(lambda: layers.StochasticDepth(1.0)).init(None)


@pytest.mark.parametrize('activation', ['glu', 'log_softmax', 'gelu'])
def test_activations_over_channels_are_the_same_in_every_strategy(monkeypatch, activation):
  monkeypatch.setattr(convolution, '_WIDE', 1)
  spec = nfnets.ModelSpec(
    width=(16,), depth=(1,), stride=(1,), group_width=4, stem=((3, 2, 8), (3, 2, 8)),
    head_channels=8, activation=activation,
  )  # fmt: skip
  net = hk.without_apply_rng(hk.transform(lambda x: nfnets.NFNet(5, spec)(x, False)['logits']))
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
  outcomes = []
  for choice in (
    {'convolutions': 'plain', 'space_to_depth': 'off'},
    {'convolutions': 'cpu', 'training_step': True},
    {'convolutions': 'tpu', 'space_to_depth': 'on', 'training_step': True},
  ):
    with execution.strategy(**choice):
      params = jax.jit(net.init)(jax.random.key(0), images)
      raised = jax.tree.map(lambda x: x + 0.1, params)
      outcomes.append((params, jax.jit(net.apply)(raised, images)))
  for params, logits in outcomes[1:]:
    jax.tree.map(np.testing.assert_array_equal, params, outcomes[0][0])
    np.testing.assert_allclose(logits, outcomes[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('convolutions', ['plain', 'cpu', 'tpu'])
def test_a_depthwise_kernel_larger_than_its_input(convolutions):
  x = np.random.default_rng(0).standard_normal((1, 3, 3, 4)).astype(np.float32)
  conv = hk.transform(lambda x: nfnets.WSConv2D(4, 7, feature_group_count=4)(x))
  with execution.strategy(convolutions):
    out = conv.apply(conv.init(jax.random.key(0), x), None, x)
  assert out.shape == x.shape
  valid = hk.transform(lambda x: nfnets.WSConv2D(4, 7, padding='VALID', feature_group_count=4)(x))
  with (
    execution.strategy(convolutions),
    pytest.raises(ValueError, match=r'7 x 7 .* 3 x 3: .* padding'),
  ):
    valid.init(jax.random.key(0), x)
