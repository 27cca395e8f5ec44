"""NFNet against the published implementation: trees, logits, statistics; and the theory."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import backbone, mean_field, nfnet, signal_propagation

# Constructor arguments and images of the golden cases (tests/golden).
CASES = {
  'nfnet_f0_96': (96, 1, {'num_classes': 1000, 'variant': 'F0'}),
  'nfnet_f0_relu_75': (
    75,
    2,
    {
      'num_classes': 17,
      'variant': 'F0',
      'activation': 'relu',
      'alpha': 0.3,
      'se_ratio': 0.25,
      'width': 2,
      'use_two_convs': False,
      'final_conv_mult': 1,
    },
  ),
}


def shapes_of(variant):
  # Exactly how people have called the published class since 2021.
  forward = hk.without_apply_rng(
    hk.transform(
      lambda x: nfnet.NFNet(num_classes=1000, variant=variant)(x, is_training=False)['logits']
    )
  )
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(forward.init, jax.random.key(0), images)


@pytest.mark.parametrize('variant', nfnet.VARIANTS)
def test_parameter_tree_equals_the_released_one(variant, trees):
  shapes = shapes_of(variant)
  tree = {m: {n: list(a.shape) for n, a in p.items()} for m, p in shapes.items()}
  assert tree == trees[f'NFNet/{variant}']['tree']
  count = sum(np.prod(a.shape, dtype=int) for p in shapes.values() for a in p.values())
  assert count == trees[f'NFNet/{variant}']['params']


def test_every_released_tree_has_a_variant(trees):
  assert {f'NFNet/{v}' for v in nfnet.VARIANTS} == {t for t in trees if t.startswith('NFNet/')}


@pytest.mark.parametrize('variant', nfnet.VARIANTS)
def test_the_table_has_the_published_test_size(variant, trees):
  assert nfnet.VARIANTS[variant].test_size == trees[f'NFNet/{variant}']['test_size']


@pytest.fixture(scope='module', params=CASES)
def case(request, recipe, recipe_params):
  size, seed, arguments = CASES[request.param]

  def network(images):
    return nfnet.NFNet(**arguments)(images, is_training=False)

  images = recipe.images(seed, (2, size, size, 3))
  return request.param, network, recipe_params(network, images), images


def test_outputs_and_block_statistics_equal_the_published_ones(case, check_against_published):
  check_against_published(*case, num_blocks=12)


@pytest.mark.slow
def test_variance_at_initialisation_is_what_the_theory_predicts():
  """F0 on white noise: over two orders of magnitude (pooling shrinks it) within 15 %.

  What is left is zero padding, finite width, and noise that the stem makes a little less white.
  """

  def network(images):
    return nfnet.NFNet(1000, 'F0')(images, is_training=False)

  images = jax.random.normal(jax.random.key(0), (2, 192, 192, 3))
  params = jax.jit(hk.transform(network).init)(jax.random.key(1), images)
  for module in params:
    if 'skip_gain' in params[module]:
      params[module]['skip_gain'] = jnp.ones(())  # the block at work; at zero it is its shortcut
  statistics, _ = signal_propagation.measure(network, params, images)
  blocks = [p for p in statistics if p.split('/')[-1].startswith('nf_block') and '.' not in p]
  measured = [float(statistics[p]['average_variance']) for p in blocks]
  predicted = [m.variance for m in mean_field.predict(nfnet.VARIANTS['F0'])]
  assert predicted[0] / predicted[-1] > 80
  np.testing.assert_allclose(measured, predicted, rtol=0.15)


def test_expected_std_grows_by_alpha_squared_and_starts_again_at_transitions():
  plans = backbone.plan_blocks(nfnet.VARIANTS['F0'])
  expected = [1.04, 1.04, 1.08, *(1 + 0.04 * k for k in range(1, 7)), 1.04, 1.08, 1.12]
  np.testing.assert_allclose([p.expected_std**2 for p in plans], expected)
  np.testing.assert_allclose([p.beta**-2 for p in plans], [1.0, *expected[:-1]])


SMALL = nfnet.ModelSpec(width=(32, 64), depth=(1, 2), stride=(1, 2), group_width=8, drop_rate=0.5)


@pytest.fixture(scope='module')
def small_params():
  return jax.jit(small().init)(jax.random.key(1), jnp.ones((2, 32, 32, 3)))


def small(method='__call__', **arguments):
  def network(images, is_training=False):
    module = nfnet.NFNet(5, SMALL, **arguments)
    return getattr(module, method)(images, is_training)

  return hk.transform(network)


def test_stage_maps():
  images = jnp.ones((2, 37, 64, 3))  # any size
  f = small('features')
  params = jax.eval_shape(f.init, jax.random.key(0), images)
  maps = jax.eval_shape(f.apply, params, None, images)
  assert {name: m.shape for name, m in maps.items()} == {
    'stem': (2, 10, 16, 16),
    'stage0': (2, 10, 16, 32),
    'stage1': (2, 5, 8, 64),
  }


def test_bfloat16_in_bfloat16_out_and_close(small_params):
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  apply = jax.jit(small().apply)
  half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), small_params)
  exact = apply(small_params, None, images)['pool']
  out = apply(half, None, images.astype(jnp.bfloat16))
  assert out['logits'].dtype == out['pool'].dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(out['pool']), exact, atol=0.1)


def test_training_draws_from_the_key_and_evaluation_needs_none(small_params):
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  apply = jax.jit(small(stochdepth_rate=0.5).apply, static_argnames='is_training')
  a, b, c = (
    np.asarray(apply(small_params, jax.random.key(k), images, is_training=True)['logits'])
    for k in (1, 1, 2)
  )
  np.testing.assert_array_equal(a, b)
  assert not np.allclose(a, c)
  apply(small_params, None, images, is_training=False)


def test_final_conv_ch_wins_over_final_conv_mult():
  f = small(final_conv_mult=3, final_conv_ch=40)
  shapes = jax.eval_shape(f.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  assert shapes['NFNet/~/linear']['w'].shape == (40, 5)


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match="Unknown NFNet variant 'F9': choose one of F0, F1"):
    shapes_of('F9')
  f = hk.transform(lambda x: nfnet.NFNet(10, 'F0', width=0.1)(x, False))
  with pytest.raises(ValueError, match='smaller than one group of 128'):
    f.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  with pytest.raises(ValueError, match=r'Images must be \[N, H, W, C\], got shape \(32, 32, 3\)'):
    small().init(jax.random.key(0), jnp.ones((32, 32, 3)))
  with pytest.raises(ValueError, match='num_classes must be at least 1, got 0'):
    hk.transform(lambda x: nfnet.NFNet(0)(x, False)).init(None, jnp.ones((1, 32, 32, 3)))
