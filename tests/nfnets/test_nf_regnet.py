"""NF-RegNet against the published implementation: trees, logits, statistics of each block."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import nf_regnet


def shapes_of(**arguments):
  forward = hk.transform(lambda x: nf_regnet.NFRegNet(**arguments)(x, is_training=False))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(forward.init, jax.random.key(0), images)


@pytest.mark.parametrize('variant', nf_regnet.VARIANTS)
def test_parameter_tree_equals_the_published_one(variant, trees):
  published = trees[f'NF_RegNet/{variant}']
  shapes = shapes_of(num_classes=1000, variant=variant)
  tree = {m: {n: list(a.shape) for n, a in p.items()} for m, p in shapes.items()}
  assert tree == published['tree']
  count = sum(np.prod(a.shape, dtype=int) for p in shapes.values() for a in p.values())
  assert count == published['params']
  assert nf_regnet.VARIANTS[variant].test_size == published['test_size']


def test_every_published_tree_has_a_variant(trees):
  published = {t for t in trees if t.startswith('NF_RegNet/')}
  assert {f'NF_RegNet/{v}' for v in nf_regnet.VARIANTS} == published


def test_outputs_and_block_statistics_equal_the_published_ones(
  check_against_published, recipe, recipe_params
):
  def network(images):
    return nf_regnet.NFRegNet(1000, 'B0')(images, is_training=False)

  images = recipe.images(5, (2, 96, 96, 3))
  params = recipe_params(network, images)
  check_against_published('nf_regnet_b0_96', network, params, images, num_blocks=16)


def test_width_multiplies_everything_before_it_is_rounded():
  shapes = shapes_of(num_classes=10, variant='B2', width=1.0)
  assert shapes['NF_RegNet/~/initial_conv']['w'].shape == (3, 3, 3, 56)
  assert shapes['NF_RegNet/~/nf_block_2/~/conv2']['w'].shape == (1, 1, 120, 112)  # 56 * 2.25 // 8
  assert shapes['NF_RegNet/~/final_conv']['w'].shape == (1, 1, 488, 1280 * 488 // 440)


@pytest.mark.parametrize(('arguments', 'std'), [({}, 0.0), ({'fc_init': jnp.ones}, 1.0)])
def test_the_classifier_starts_at_zero_unless_told_otherwise(arguments, std):
  spec = nf_regnet.VARIANTS['B0'].replace(
    width=(16,), depth=(1,), stem=((3, 2, 16),), head_channels=8, se_ratio=0
  )
  f = hk.transform(lambda x: nf_regnet.NFRegNet(3, spec, **arguments)(x, is_training=False))
  params = jax.jit(f.init)(jax.random.key(0, impl='rbg'), jnp.ones((1, 32, 32, 3)))
  np.testing.assert_array_equal(params['NF_RegNet/~/linear']['w'], np.full((8, 3), std))
