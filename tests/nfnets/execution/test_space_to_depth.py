"""Stems on squares of pixels against the plain convolutions, in float64."""

import math

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import nfnets
from nfnets import activations, execution
from nfnets import spec as spec_lib
from nfnets.execution import space_to_depth

STEMS = {
  'nfnet': spec_lib.default_stem(32),
  'nf_resnet': ((7, 2, 8),),
  'nf_regnet': ((3, 2, 6),),
  'light': ((3, 2, 4), (3, 1, 6), (3, 1, 5), (3, 2, 8)),
  'even kernel, late stride': ((4, 1, 4), (2, 2, 3), (5, 1, 4)),
  'stride 4': ((3, 4, 5), (3, 1, 4)),
}


@pytest.fixture(autouse=True)
def float64():
  with jax.enable_x64(True):
    yield


def plain(x, weights, convs, padding):
  """The chain with XLA's convolutions and a tanh between them."""
  for i, ((kernel, stride, _), (w, b)) in enumerate(zip(convs, weights, strict=True)):
    pads = 'SAME' if padding == 'SAME' else [(kernel // 2, kernel // 2)] * 2
    x = lax.conv_general_dilated(
      jnp.tanh(x) if i else x, w, (stride,) * 2, pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    x = x + b
  return x


def layers_of(convs, weights, padding):
  """What `chain` calls: convolutions of the given weights."""

  def layer(kernel, stride, w, b):
    pads = 'SAME' if padding == 'SAME' else ((kernel // 2, kernel // 2),) * 2

    def call(x, before=None):
      return execution.convolve(x, w, b, before=before, stride=stride, padding=pads)

    call.kernel_shape, call.stride, call.padding = (kernel, kernel), stride, pads
    return call

  return [layer(k, s, w, b) for (k, s, _), (w, b) in zip(convs, weights, strict=True)]


def packed_chain(x, weights, convs, padding):
  """The chain with the layers of this library, on squares of pixels where that is possible."""
  tanh = activations.Scaled(activations.get('tanh'))
  with execution.strategy('plain', space_to_depth='on'):
    return execution.chain(layers_of(convs, weights, padding), x, between=tanh)


def block_of(convs, size, padding='SAME'):
  return space_to_depth.block_of(
    [
      ((k, k), stride, padding if padding == 'SAME' else ((k // 2, k // 2),) * 2)
      for k, stride, _ in convs
    ],
    size,
  )


@pytest.mark.parametrize('padding', ['SAME', 'symmetric'])
@pytest.mark.parametrize('convs', STEMS.values(), ids=STEMS)
def test_values_and_gradients_equal_the_plain_chain(convs, padding):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, 16, 24, 3)))
  weights, channels = [], 3
  for kernel, _, features in convs:
    w = rng.standard_normal((kernel, kernel, channels, features)) / kernel
    weights.append((jnp.asarray(w), jnp.asarray(rng.standard_normal(features))))
    channels = features
  block = block_of(convs, (16, 24), padding)
  if padding == 'symmetric' and any(kernel % 2 == 0 for kernel, _, _ in convs):
    assert block == 1  # the sizes no longer halve
  else:
    assert block == math.prod(stride for _, stride, _ in convs)

  expected, pull = jax.vjp(lambda x, ws: plain(x, ws, convs, padding), x, weights)
  got, pull_packed = jax.vjp(lambda x, ws: packed_chain(x, ws, convs, padding), x, weights)
  np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
  cotangent = jnp.asarray(rng.standard_normal(expected.shape))
  for a, b in zip(
    jax.tree.leaves(pull_packed(cotangent)), jax.tree.leaves(pull(cotangent)), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_packing_keeps_the_order_of_rows_columns_and_channels():
  x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  packed = np.asarray(space_to_depth.pack(jnp.asarray(x), 2))
  assert packed.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(
    packed[1, 1, 2], np.concatenate([x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]])
  )


def test_a_packed_kernel_by_hand():
  # 3x3 of stride 1 on 2x2 blocks: the first pixel of a place looks one pixel up and to the left.
  plan = space_to_depth._plan(2, (3, 3), 1, (4, 4), 'SAME')
  w = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
  got = np.asarray(space_to_depth._rearranged(w, plan))
  assert got.shape == (3, 3, 4, 4)
  assert got[0, 0, :, 0].tolist() == [0, 0, 0, 1]  # of the place above left: its last pixel
  assert got[1, 1, :, 0].tolist() == [5, 6, 8, 9]
  assert got[1, 1, :, 3].tolist() == [1, 2, 4, 5]
  assert np.count_nonzero(got) == 4 * 9


@pytest.mark.parametrize('shape', [(16, 18), (17, 16), (15, 15)])
def test_sizes_that_do_not_divide_are_not_packed(shape):
  assert block_of(spec_lib.default_stem(32), shape) == 1
  assert block_of(((3, 1, 8), (3, 1, 8)), (16, 16)) == 1  # nothing to pack


TINY = {'width': (16, 16), 'depth': (1, 1), 'stride': (1, 2), 'group_width': 8}


def network_of(spec):
  return hk.without_apply_rng(
    hk.transform(lambda x: nfnets.create_model(spec, 5)(x, is_training=False)['logits'])
  )


@pytest.mark.parametrize('size', [16, 18])
def test_a_network_is_the_same_packed_and_plain(size):
  network = network_of(nfnets.ModelSpec(**TINY))
  images = jnp.asarray(np.random.default_rng(1).standard_normal((2, size, size, 3)))
  with execution.strategy(space_to_depth='on'):
    params = network.init(jax.random.key(0), images)
    packed = network.apply(params, images)
    text = jax.jit(network.apply).lower(params, images).as_text()
  with execution.strategy(space_to_depth='off'):
    plain_params = network.init(jax.random.key(0), images)
    plain_out = network.apply(params, images)
  jax.tree.map(np.testing.assert_array_equal, params, plain_params)
  np.testing.assert_allclose(packed, plain_out, rtol=1e-12, atol=1e-12)
  assert ('x4x4x48xf64>' in text) == (size == 16)  # 18 is no multiple of 4: the plain stem


@pytest.mark.parametrize(
  ('packing', 'size', 'block'), [('on', 16, 4), ('off', 16, 4), ('on', 16, 2)]
)
def test_a_network_takes_packed_images(packing, size, block):
  network = network_of(nfnets.ModelSpec(**TINY))
  images = jnp.asarray(np.random.default_rng(1).standard_normal((2, size, size, 3)))
  given = execution.SpaceToDepth(space_to_depth.pack(images, block), block)
  assert given.shape == images.shape
  assert given.ndim == 4
  with execution.strategy(space_to_depth=packing):
    params = network.init(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, network.init(jax.random.key(0), given), params)
    # Equal, not only close: the pixels come to the same places.
    np.testing.assert_array_equal(network.apply(params, given), network.apply(params, images))


def test_unpacking_undoes_packing_in_numpy_as_in_jax():
  images = np.arange(2 * 6 * 4 * 3).reshape(2, 6, 4, 3)
  packed = space_to_depth.pack(images, 2)
  assert isinstance(packed, np.ndarray)
  np.testing.assert_array_equal(packed, space_to_depth.pack(jnp.asarray(images), 2))
  np.testing.assert_array_equal(space_to_depth.unpack(packed, 2), images)
  np.testing.assert_array_equal(space_to_depth.unpack(jnp.asarray(packed), 2), images)
