"""Parameters from the network's own initialisers, and branches at work."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import initialization

IMAGES = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)


def network(images):
  x = nfnets.WSConv2D(64, 3, name='standardized')(images)
  x = hk.BatchNorm(True, True, 0.9, name='norm')(x, is_training=True)
  x = hk.Conv2D(64, 3, w_init=hk.initializers.RandomNormal(0.3, 5.0), name='shifted')(x)
  x = hk.Conv2D(64, 3, w_init=jnp.zeros, name='zero')(x)
  return x * hk.get_parameter('skip_gain', (), init=jnp.zeros)


@pytest.fixture(scope='module')
def drawn():
  return initialization.initialize(network, jax.random.key(0), IMAGES)


def test_trees_are_those_of_haiku(drawn):
  expected = jax.eval_shape(hk.transform_with_state(network).init, jax.random.key(0), IMAGES)
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), drawn)
  assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), tuple(expected))


def test_laws_are_the_initialisers(drawn):
  params, state = drawn
  w = np.asarray(params['standardized']['w'])
  assert w.std() == pytest.approx(27**-0.5, rel=0.05)
  shifted = np.asarray(params['shifted']['w'])
  assert shifted.mean() == pytest.approx(5, abs=0.01)
  assert shifted.std() == pytest.approx(0.3, rel=0.05)
  assert not np.any(params['zero']['w'])
  assert not np.any(state['norm/~/mean_ema']['hidden'])


def test_equal_laws_draw_other_numbers():
  def two(images):
    return nfnets.WSConv2D(8, 3, name='a')(images) + nfnets.WSConv2D(8, 3, name='b')(images)

  params, _ = initialization.initialize(two, jax.random.key(0), IMAGES)
  other, _ = initialization.initialize(two, jax.random.key(1), IMAGES)
  assert not np.allclose(params['a']['w'], params['b']['w'])
  assert not np.allclose(params['a']['w'], other['a']['w'])


def test_open_branches_change_only_what_is_zero(drawn):
  params, _ = drawn
  opened = initialization.open_branches(params, jax.random.key(2))
  assert float(opened['~']['skip_gain']) == 1
  drawn_std = np.asarray(opened['zero']['w']).std()
  assert drawn_std == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
  for module in ('standardized', 'shifted'):
    np.testing.assert_array_equal(opened[module]['w'], params[module]['w'])
  assert not np.any(opened['zero']['b'])  # a bias of zero is no closed branch
  halved = {'conv': {'gain': jnp.array([0.0, 0.5])}}
  np.testing.assert_array_equal(
    initialization.open_branches(halved, jax.random.key(0))['conv']['gain'], [0, 0.5]
  )
