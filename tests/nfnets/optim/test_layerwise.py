"""Frozen parameters and learning rates by layer."""

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
  updates, state, _ = updates_of(optim.by_layer(plain, frozen=('Net/~/stem', 'Net/~/block_1/~')))
  for module, entries in updates.items():
    for name, value in entries.items():
      if module in ('Net/~/stem_conv0', 'Net/~/block_1/~/conv'):
        np.testing.assert_array_equal(value, np.zeros(value.shape))
      else:
        np.testing.assert_array_equal(value, expected[module][name])
  sizes = {x.size for x in jax.tree.leaves(state)}
  assert PARAMS['Net/~/stem_conv0']['w'].size not in sizes


def test_multipliers_scale_updates_and_the_longest_prefix_counts():
  plain = optim.nfnet_sgd(0.1, weight_decay=0.1)
  expected, _, _ = updates_of(plain, steps=1)
  multipliers = {'Net/~/block_1': 0.1, 'Net/~/block_1/~/conv': 3.0, 'Net/~/stem': 0.0}
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
    optim.nfnet_sgd(0.1), frozen=('Net/~/stem',), multipliers={'Net/~/block_2': 0.5}
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
    ({'multipliers': {'linear': 0.1}}, "learning-rate multiplier prefix 'linear'"),
    ({'multipliers': {'Net': -1.0}}, "multiplier of 'Net' is -1.0"),
    ({'frozen': ('Net',)}, 'covers every parameter: nothing is left to train'),
  ],
)
def test_a_prefix_that_cannot_be_used_is_named(options, sentence):
  with pytest.raises(ValueError, match=sentence):
    optim.by_layer(optim.nfnet_sgd(0.1), **options).init(PARAMS)


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
