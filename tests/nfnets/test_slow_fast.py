"""The slow-fast network against the published implementation, and small ones in use."""

import gzip
import json
import pathlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import execution, zoo
from nfnets.spec import FastTrunk

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
# Name in the golden files -> name of the model, and parameters.
NETWORKS = {
  'F0-slow': ('NFNet-F0-slow', 56_636_828),
  'F0-fast': ('NFNet-F0-fast', 899_842),
  'slowfast': ('SlowFast-NFNet-F0', 62_970_654),
}
CASES = {
  'F0-slow/a': ((2, 96, 64, 1), 41),
  'F0-fast/a': ((2, 96, 64, 1), 42),
  'slowfast/a': ((2, 128, 64, 1), 43),
  'slowfast/b': ((1, 101, 80, 1), 44),
}


def headless(name):
  return lambda x: nfnets.create_model(name, num_classes=None)(x, is_training=False)


@pytest.mark.parametrize('network', NETWORKS)
def test_parameter_tree_equals_the_published_one(network):
  want = json.loads(gzip.decompress((GOLDEN / 'slowfast_trees.json.gz').read_bytes()))[network]
  name, count = NETWORKS[network]
  images = jax.ShapeDtypeStruct((1, 64, 64, 1), jnp.float32)
  shapes = jax.eval_shape(hk.transform(headless(name)).init, jax.random.key(0), images)
  assert {m: {n: list(a.shape) for n, a in p.items()} for m, p in shapes.items()} == want['tree']
  found = sum(np.prod(a.shape, dtype=int) for p in shapes.values() for a in p.values())
  assert found == want['params'] == count


@pytest.mark.parametrize(
  'case',
  [
    pytest.param('F0-slow/a', marks=pytest.mark.slow),
    'F0-fast/a',
    'slowfast/a',
    pytest.param('slowfast/b', marks=pytest.mark.slow),
  ],
)
def test_pooled_features_equal_the_published_ones(case, recipe, recipe_params, golden):
  shape, seed = CASES[case]
  network = headless(NETWORKS[case.split('/')[0]][0])
  images = recipe.images(seed, shape)
  params = recipe_params(network, images)
  with execution.strategy('plain'):
    out = jax.jit(hk.without_apply_rng(hk.transform(network)).apply)(params, images)
  assert out.keys() == {'pool'}
  want = golden('slowfast')[f'{case}/pool']
  np.testing.assert_allclose(out['pool'], want, rtol=0, atol=1e-5 * np.abs(want).max())


SMALL = nfnets.ModelSpec(
  family='slow_fast_nf_net',
  width=(16, 32),
  depth=(1, 2),
  stride=(1, (1, 2)),
  group_width=8,
  kernel=(1, (3, 1)),
  second_kernel=((1, 3), (1, 3)),
  in_channels=1,
  stem=(((1, 3), 2, 4), (3, (1, 2), 8)),
  test_size=(24, 16),
  fast=FastTrunk(
    width=(8, 16),
    stem=(((3, 3), 2, 2), (3, (1, 2), 4)),
    group_width=4,
    kernel=((3, 1), (3, 1)),
    second_kernel=((1, 3), (1, 3)),
    lateral_width=(6, 8),
  ),
)


def small(images, num_classes=5, **arguments):
  return nfnets.create_model(SMALL, num_classes, **arguments)(images, is_training=False)


@pytest.fixture(scope='module')
def small_params(recipe_params):
  return recipe_params(small, jnp.ones((1, 24, 16, 1)))


def test_maps_keep_their_time_and_the_classifier_sees_both_trunks(small_params):
  images = jnp.ones((2, 22, 17, 1))  # any size

  def features(x):
    return nfnets.create_model(SMALL, 5).features(x, is_training=False)

  maps = jax.eval_shape(hk.transform(features).apply, small_params, None, images)
  assert {name: m.shape for name, m in maps.items()} == {
    'fast_stem': (2, 11, 5, 4),
    'fast_stage0': (2, 11, 5, 8),
    'fast_stage1': (2, 11, 3, 16),
    'stem': (2, 3, 5, 8),
    'stage0': (2, 3, 5, 16),
    'stage1': (2, 3, 3, 32),
  }
  assert small_params['slow_fast_nf_net/~/linear']['w'].shape == (2 * (16 + 32), 5)


@pytest.fixture(scope='module')
def plain_logits(small_params, recipe):
  with execution.strategy('plain'):
    return jax.jit(hk.transform(small).apply)(small_params, None, recipe.images(7, (2, 32, 16, 1)))[
      'logits'
    ]


@pytest.mark.parametrize('convolutions', ['cpu', 'tpu'])
def test_strategies_give_the_values_of_plain_convolutions(
  convolutions, small_params, plain_logits, recipe
):
  images = recipe.images(7, (2, 32, 16, 1))
  with execution.strategy(convolutions, space_to_depth='on'):
    got = jax.jit(hk.transform(small).apply)(small_params, None, images)['logits']
  np.testing.assert_allclose(got, plain_logits, rtol=0, atol=1e-5 * np.abs(plain_logits).max())


@pytest.mark.slow
@pytest.mark.parametrize('convolutions', ['cpu', 'tpu'])
def test_strategies_give_the_gradients_of_plain_convolutions(convolutions, small_params, recipe):
  images = recipe.images(7, (2, 32, 16, 1))
  apply = hk.without_apply_rng(hk.transform(small)).apply

  def loss(params, images):
    return jnp.sum(apply(params, images)['logits'] ** 2)

  with execution.strategy('plain'):
    want, want_grads = jax.jit(jax.value_and_grad(loss))(small_params, images)
  options = {'space_to_depth': 'on', 'training_step': True, 'rematerialize': (0, 1)}
  with execution.strategy(convolutions, **options):
    got, grads = jax.jit(jax.value_and_grad(loss))(small_params, images)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for (path, a), b in zip(
    jax.tree.leaves_with_path(grads), jax.tree.leaves(want_grads), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max() + 1e-7, err_msg=path)


def test_a_spec_survives_json_and_replaces_reach_both_trunks():
  for spec in (SMALL, zoo.get_spec('SlowFast-NFNet-F0')):
    assert zoo.spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
  changed = SMALL.replace(activation='relu', drop_rate=0.5)
  assert changed.fast_trunk.activation == 'relu'
  assert SMALL.fast_trunk.width == (8, 16)
  assert SMALL.stage_input(1) == 16 + 8


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'fast': None}, "fast=None do not go together.*'slow_fast_nf_net'"),
    ({'family': 'NFNet'}, "family='NFNet' and fast=a trunk do not go together"),
    ({'kernel': (1, (2, 1))}, 'ModelSpec.kernel must be odd'),
    ({'stride': (1, (1, 2, 2))}, r'ModelSpec.stride: give one whole number, or two .*\(1, 2, 2\)'),
    ({'in_channels': 0}, 'in_channels must be a whole number from 1, got 0'),
    ({'fast': {'lateral_width': (1, 2, 3)}}, 'lateral_width must have a number .* 2 stages'),
    ({'fast': {'lateral_kernel': 0}}, 'lateral_kernel must be a whole number from 1, got 0'),
    ({'fast': {'width': (2, 16)}}, 'Stage 0 is 2 wide'),
  ],
)
def test_impossible_networks_are_refused_with_a_sentence(changes, sentence):
  fields = SMALL.to_dict() | changes
  if isinstance(changes.get('fast'), dict):
    fields['fast'] = SMALL.to_dict()['fast'] | changes['fast']
  with pytest.raises(ValueError, match=sentence):
    zoo.spec_from_dict(fields)
