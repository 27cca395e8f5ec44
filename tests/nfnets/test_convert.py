"""Standardised convolutions in a network that knows nothing of them."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import layers

CONVS = {
  'conv1d': (lambda: hk.Conv1D(64, 3, name='c'), (8, 64, 32)),
  'conv2d_strided': (lambda: hk.Conv2D(64, 3, 2, name='c'), (8, 24, 24, 32)),
  'conv3d': (lambda: hk.Conv3D(64, 3, name='c'), (2, 10, 10, 10, 8)),
  'channels_first': (lambda: hk.Conv2D(64, 3, data_format='NCHW', name='c'), (8, 32, 24, 24)),
  'grouped': (lambda: hk.Conv2D(64, 3, feature_group_count=4, name='c'), (8, 24, 24, 32)),
  'transposed': (lambda: hk.Conv2DTranspose(64, 4, 2, name='c'), (8, 16, 16, 32)),
  'depthwise': (lambda: hk.DepthwiseConv2D(2, 3, name='c'), (8, 24, 24, 64)),
}


def transform(build, **options):
  def forward(x):
    with nfnets.weight_standardized(**options):
      return build()(x)

  return hk.without_apply_rng(hk.transform(forward))


@pytest.mark.parametrize('case', CONVS)
def test_variance_is_preserved_whatever_the_initial_weights(case):
  build, shape = CONVS[case]
  f = transform(build)
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  params = jax.jit(f.init)(jax.random.key(1, impl='rbg'), x)
  plain = jax.eval_shape(hk.transform(lambda x: build()(x)).init, jax.random.key(1), x)
  assert params['c']['w'].shape == plain['c']['w'].shape
  assert set(params['c']) == {'w', 'b', 'gain'}
  params['c']['w'] = 5 * np.asarray(params['c']['w']) + 3  # neither scale nor mean may matter
  y = np.asarray(jax.jit(f.apply)(params, x))
  inner = y[(slice(None), *(slice(3, -3) for _ in shape[1:-1]))]  # borders see padding
  inner = y[:, :, 3:-3, 3:-3] if case == 'channels_first' else inner
  assert inner.var() == pytest.approx(1.0, rel=0.1)


def test_it_computes_what_the_standardised_layer_computes():
  f = transform(lambda: hk.Conv2D(8, 3, 2, feature_group_count=2, name='c'))
  x = np.random.default_rng(0).normal(size=(2, 9, 8, 4)).astype(np.float32)
  params = jax.jit(f.init)(jax.random.key(1, impl='rbg'), x)
  rng = np.random.default_rng(0)
  gain, bias = rng.normal(size=(2, 8)).astype(np.float32)
  y = jax.jit(f.apply)({'c': {'w': params['c']['w'], 'gain': gain, 'b': bias}}, x)
  ours = hk.without_apply_rng(
    hk.transform(lambda x: layers.WSConv2D(8, 3, 2, feature_group_count=2, name='c')(x))
  )
  expected = jax.jit(ours.apply)({'c': {'w': params['c']['w'], 'gain': gain, 'bias': bias}}, x)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


class Plain(hk.Module):
  """A network written with BatchNorm by somebody else."""

  def __call__(self, x):
    """Maps [N, H, W, C] to [N, 5]."""
    x = hk.Conv2D(16, 3, with_bias=False, name='conv')(x)
    x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training=True))
    x = hk.Conv2D(16, 1, name='gate')(x)
    return hk.Linear(5, name='head')(x.mean((1, 2)))


def trees(**options):
  def forward(x):
    with nfnets.weight_standardized(**options):
      return Plain()(x)

  x = jnp.ones((2, 8, 8, 3))
  params, state = jax.eval_shape(hk.transform_with_state(forward).init, jax.random.key(0), x)
  return {path: set(entries) for path, entries in params.items()}, state


def test_paths_stay_and_only_convolutions_gain_a_gain():
  params, state = trees()
  assert params == {
    'plain/conv': {'w', 'gain'},
    'plain/norm': {'scale', 'offset'},
    'plain/gate': {'w', 'b', 'gain'},
    'plain/head': {'w', 'b'},
  }
  assert state


def test_batch_norm_and_its_state_can_go():
  params, state = trees(remove_batch_norm=True)
  assert set(params) == {'plain/conv', 'plain/gate', 'plain/head'}
  assert not state


def test_modules_can_be_left_alone():
  params, _ = trees(skip=lambda path: path.endswith(('gate', 'norm')), remove_batch_norm=True)
  assert params['plain/gate'] == {'w', 'b'}
  assert params['plain/norm'] == {'scale', 'offset'}
  assert params['plain/conv'] == {'w', 'gain'}


def test_outside_the_context_everything_is_as_before():
  def forward(x):
    with nfnets.weight_standardized():
      pass
    return hk.Conv2D(4, 3, name='c')(x)

  shapes = jax.eval_shape(hk.transform(forward).init, jax.random.key(0), jnp.ones((1, 4, 4, 3)))
  assert set(shapes['c']) == {'w', 'b'}


def test_masked_convolutions_are_refused():
  mask = np.tril(np.ones((3, 1, 3, 4)))
  f = transform(lambda: hk.Conv2D(4, (3, 1), mask=mask, name='c'))
  with pytest.raises(ValueError, match='c has a mask'):
    f.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
