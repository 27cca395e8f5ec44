"""Frozen parameters and learning rates by layer."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim

PARAMS = {
  'Net/~/stem_conv0': {'w': jnp.full((3, 3, 3, 4), 0.5), 'bias': jnp.array([1.0, -0.0, 2.0, 3.0])},
  'Net/~/block_1': {'w': jnp.full((2, 3, 3, 4), 0.5)},
  'Net/~/block_1/~/conv': {'w': jnp.full((2, 3, 3, 4), 0.5)},
  'Net/~/block_2': {'w': jnp.full((2, 3, 3, 4), 0.5)},
}
PARAMS['Net/~/linear'] = {'w': jnp.full((4, 2), 0.5), 'b': jnp.zeros(2)}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def updates_of(optimizer, steps=3):
  params, state = PARAMS, optimizer.init(PARAMS)
  for _ in range(steps):
    updates, state = optimizer.update(GRADS, state, params)
    params = optax.apply_updates(params, updates)
  return updates, state, params


@pytest.mark.parametrize('recipe', [optim.nfnet_sgd, optim.nfnet_adamw])
def test_frozen_parameters_have_no_update_and_no_state_and_the_others_their_own(recipe):
  plain = recipe(0.1, weight_decay=0.1)
  expected, _, _ = updates_of(plain)
  updates, state, _ = updates_of(
    optim.by_layer(plain, frozen=('Net/~/stem_conv*', 'Net/~/block_1/~'))
  )
  for module, entries in updates.items():
    for name, value in entries.items():
      if module in ('Net/~/stem_conv0', 'Net/~/block_1/~/conv'):
        np.testing.assert_array_equal(value, np.zeros(value.shape))
      else:
        np.testing.assert_array_equal(value, expected[module][name])
  sizes = {x.size for x in jax.tree.leaves(state)}
  assert PARAMS['Net/~/stem_conv0']['w'].size not in sizes


def test_multipliers_scale_updates_and_the_most_precise_prefix_counts():
  plain = optim.nfnet_sgd(0.1, weight_decay=0.1)
  expected, _, _ = updates_of(plain, steps=1)
  multipliers = {'Net/~/block_1': 0.1, 'Net/~/block_1/~/conv': 3.0, 'Net/~/stem_conv*': 0.0}
  updates, _, _ = updates_of(optim.by_layer(plain, multipliers=multipliers), steps=1)
  factors = {
    'Net/~/stem_conv0': 0.0,
    'Net/~/block_1': 0.1,
    'Net/~/block_1/~/conv': 3.0,
    'Net/~/block_2': 1.0,
    'Net/~/linear': 1.0,
  }
  for module, factor in factors.items():
    for name, value in updates[module].items():
      np.testing.assert_allclose(value, factor * expected[module][name], rtol=1e-6)


def test_both_together():
  both = optim.by_layer(
    optim.nfnet_sgd(0.1), frozen=('Net/~/stem_conv*',), multipliers={'Net/~/block_2': 0.5}
  )
  updates, _, params = updates_of(both, steps=2)
  assert not np.any(updates['Net/~/stem_conv0']['w'])
  np.testing.assert_allclose(
    updates['Net/~/block_2']['w'], 0.5 * updates['Net/~/block_1']['w'], rtol=1e-2
  )
  assert np.any(params['Net/~/block_2']['w'] != PARAMS['Net/~/block_2']['w'])


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    ({'frozen': ('Net/~/stam',)}, "no parameter begins with the frozen prefix 'Net/~/stam'"),
    ({'frozen': ('Net/~/stem',)}, r"whole part of the path: write 'Net/~/stem\*'"),
    ({'multipliers': {'Net/~/bl': 0.5}}, r"whole part of the path: write 'Net/~/bl\*'"),
    ({'frozen': ('Net/~/linear/w/x',)}, "prefix 'Net/~/linear/w/x'; expected the beginning"),
    ({'multipliers': {'linear': 0.1}}, "learning-rate multiplier prefix 'linear'"),
    ({'multipliers': {'Net': -1.0}}, "multiplier of 'Net' is -1.0"),
    ({'frozen': ('Net',)}, 'covers every parameter: nothing is left to train'),
  ],
)
def test_a_prefix_that_cannot_be_used_is_named(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    optim.by_layer(optim.nfnet_sgd(0.1), **options).init(PARAMS)


@pytest.mark.parametrize(
  ('prefix', 'covered'),
  [
    ('Net/~/block_1', {'Net/~/block_1/w', 'Net/~/block_1/~/conv/w'}),
    ('Net/~/block_1/', {'Net/~/block_1/w', 'Net/~/block_1/~/conv/w'}),
    ('Net/~/block_1/w', {'Net/~/block_1/w'}),
    ('Net/~/block_1*', {'Net/~/block_1/w', 'Net/~/block_1/~/conv/w', 'Net/~/block_12/w'}),
    ('Net/~/block_[23]', {'Net/~/block_2/w'}),
    ('Net/~/*/w', {'Net/~/block_1/w', 'Net/~/block_12/w', 'Net/~/block_2/w'}),
  ],
)
def test_a_prefix_covers_whole_parts_of_the_path(prefix, covered):
  modules = ('Net/~/block_1', 'Net/~/block_1/~/conv', 'Net/~/block_12', 'Net/~/block_2')
  params = {module: {'w': jnp.ones(2)} for module in modules}
  mask = optim.frozen_mask(params, (prefix,))
  assert {f'{module}/w' for module in modules if mask[module]['w']} == covered
  rates = optim.rate_multipliers(params, {prefix: 0.5})
  assert jax.tree.map(lambda rate: rate == 0.5, rates) == mask
  immutable = hk.data_structures.to_immutable_dict(params)
  assert jax.tree.leaves(optim.frozen_mask(immutable, (prefix,))) == jax.tree.leaves(mask)


def test_what_names_a_block_counts_before_what_names_all_of_them():
  params = {f'Net/~/block{end}': {'w': jnp.ones(2)} for end in ('', '_1', '_2')}
  multipliers = {'Net/~/block_1': 0.25, 'Net/~/block*': 0.5, 'Net/~/block': 0.125}
  rates = optim.rate_multipliers(params, multipliers)
  assert jax.tree.leaves(rates) == [0.125, 0.25, 0.5]


def test_extra_arguments_and_holes_pass_through_both():
  chained = optim.chain(optim.nfnet_sgd(0.1), optax.contrib.reduce_on_plateau(0.5, patience=1))
  both = optim.by_layer(chained, frozen=('Net/~/stem_conv*',), multipliers={'Net/~/block_2': 0.5})
  grads = {**GRADS, 'Net/~/block_1': {'w': None}}
  state = both.init(PARAMS)
  expected, _ = optim.nfnet_sgd(0.1).update(GRADS, optim.nfnet_sgd(0.1).init(PARAMS), PARAMS)
  updates, state = both.update(grads, state, PARAMS, value=1.0)
  assert updates['Net/~/block_1'] == {'w': None}
  assert not np.any(updates['Net/~/stem_conv0']['w'])
  np.testing.assert_allclose(updates['Net/~/linear']['w'], expected['Net/~/linear']['w'])
  np.testing.assert_allclose(
    updates['Net/~/block_2']['w'], 0.5 * expected['Net/~/block_2']['w'], rtol=1e-6
  )
  updates, state = both.update(grads, state, PARAMS, value=2.0)  # no better: the rate is halved
  ratio = updates['Net/~/linear']['w'] / expected['Net/~/linear']['w']
  np.testing.assert_allclose(ratio, 0.5 * (1 + 0.9 + 0.9**2) / 1.9, rtol=1e-2)


def test_traced_multipliers_scale_each_in_its_dtype():
  params = {'a': {'w': jnp.ones(3, jnp.bfloat16)}, 'b': {'w': jnp.ones(2)}}

  @jax.jit
  @jax.vmap
  def updates_at(rate):
    optimizer = optim.by_layer(optax.sgd(1.0), multipliers={'a': rate})
    return optimizer.update(params, optimizer.init(params), params)[0]

  updates = updates_at(jnp.array([0.5, 0.0]))
  assert (updates['a']['w'].dtype, updates['b']['w'].dtype) == (jnp.bfloat16, jnp.float32)
  np.testing.assert_array_equal(updates['a']['w'][:, 0], [-0.5, 0.0])
  np.testing.assert_array_equal(updates['b']['w'], -np.ones((2, 2)))


def test_clipping_is_known_to_the_chain_behind_frozen_layers():
  frozen = optim.by_layer(optim.nfnet_sgd(0.1), frozen=('Net/~/linear',))
  with pytest.raises(ValueError, match='before the optimiser'):
    optim.chain(optax.trace(0.9), frozen)
  updates, _ = frozen.update(GRADS, frozen.init(PARAMS), PARAMS)  # though the classifier is hidden
  assert not np.any(updates['Net/~/linear']['w'])
  assert np.all(updates['Net/~/block_2']['w'] != 0)


@pytest.mark.parametrize(
  ('module', 'stage'),
  [
    ('NFNet/~/stem_conv0', 'stem'),
    ('NF_ResNet/~/initial_conv', 'stem'),
    ('NFNet/~/nf_block', 'stage_1'),
    ('NFNet/~/nf_block_1/~/conv0', 'stage_2'),
    ('NFNet/~/nf_block_2/~/squeeze_excite/~/linear', 'stage_2'),
    ('NF_ResNet/~/nf_res_block_3', 'stage_3'),
    ('NFNet/~/final_conv', 'head'),
    ('NFNet/~/linear', 'head'),
  ],
)
def test_stages_follow_from_the_blocks_numbers(module, stage):
  assert optim.stage_of(module, (1, 2, 6, 3)) == stage
