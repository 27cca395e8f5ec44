"""NF-ResNet against the published implementation: trees, logits, statistics of each block."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import nf_resnet, nfnet

# Size and seed of the images, and constructor arguments, of the golden cases (tests/golden).
CASES = {
  'nf_resnet50_96': (96, 3, {'num_classes': 1000, 'variant': 'ResNet50'}),
  'nf_resnet50_se_silu_64': (
    64,
    4,
    {'num_classes': 10, 'variant': 'ResNet50', 'use_se': True, 'activation': 'silu', 'width': 2},
  ),
}


def shapes_of(**arguments):
  forward = hk.transform(lambda x: nf_resnet.NFResNet(**arguments)(x, is_training=False))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(forward.init, jax.random.key(0), images)


@pytest.mark.parametrize('variant', nf_resnet.VARIANTS)
def test_parameter_tree_equals_the_published_one(variant, trees):
  shapes = shapes_of(num_classes=1000, variant=variant)
  tree = {m: {n: list(a.shape) for n, a in p.items()} for m, p in shapes.items()}
  assert tree == trees[f'NF_ResNet/{variant}']['tree']
  count = sum(np.prod(a.shape, dtype=int) for p in shapes.values() for a in p.values())
  assert count == trees[f'NF_ResNet/{variant}']['params']


def test_every_published_tree_has_a_variant(trees):
  published = {t for t in trees if t.startswith('NF_ResNet/')}
  assert {f'NF_ResNet/{v}' for v in nf_resnet.VARIANTS} == published


@pytest.mark.parametrize('case', CASES)
def test_outputs_and_block_statistics_equal_the_published_ones(
  case, check_against_published, recipe, recipe_params
):
  size, seed, arguments = CASES[case]

  def network(images):
    return nf_resnet.NFResNet(**arguments)(images, is_training=False)

  images = recipe.images(seed, (2, size, size, 3))
  check_against_published(case, network, recipe_params(network, images), images, num_blocks=16)


def test_width_multiplies_the_stem_too():
  shapes = shapes_of(num_classes=10, width=2)
  assert shapes['NF_ResNet/~/initial_conv']['w'].shape == (7, 7, 3, 32)
  assert shapes['NF_ResNet/~/linear']['w'].shape == (1024, 10)


@pytest.mark.parametrize(
  ('arguments', 'hidden'),
  [
    ({}, None),
    ({'use_se': True}, 64),
    ({'use_se': True, 'se_ratio': 0.5}, 128),
    ({'se_ratio': 0.5}, 128),
    ({'use_se': False, 'se_ratio': 0.5}, None),
  ],
)
def test_squeeze_excite_is_switched_by_use_se_and_se_ratio(arguments, hidden):
  shapes = shapes_of(num_classes=10, **arguments)
  name = 'NF_ResNet/~/nf_res_block/~/squeeze_excite/~/linear'
  assert (shapes[name]['w'].shape if name in shapes else None) == (hidden and (256, hidden))


def test_dropout_defaults_to_none():
  assert nf_resnet.VARIANTS['ResNet50'].drop_rate == 0


def test_a_spec_of_another_family_and_an_unknown_variant_are_refused():
  with pytest.raises(ValueError, match="family='NFNet' and the class builds 'NF_ResNet'"):
    shapes_of(num_classes=10, variant=nfnet.VARIANTS['F0'])
  with pytest.raises(ValueError, match="Unknown NF_ResNet variant 'ResNet51': choose one of"):
    shapes_of(num_classes=10, variant='ResNet51')
