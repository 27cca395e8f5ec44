"""Adaptive gradient clipping against the published implementation's numbers."""

from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim
from nfnets.optim import adaptive_grad_clip, assign, clipped_share, sum_by_group

GOLDEN = np.load(Path(__file__).parents[2] / 'golden' / 'optim.npz')
CASES = sorted({key.rsplit('/', 1)[0] for key in GOLDEN.files if key.endswith('/clipped')})
CLIPPING, EPS = float(GOLDEN['clipping']), float(GOLDEN['eps'])


def _clip(grads, params, **kwargs):
  tx = adaptive_grad_clip(kwargs.get('clipping', CLIPPING), kwargs.get('eps', EPS))
  return jax.jit(tx.update)(grads, tx.init(params), params)[0]


def test_golden_covers_every_rank():
  assert {GOLDEN[f'{case}/param'].ndim for case in CASES} == {0, 1, 2, 3, 4}
  unchanged = [np.array_equal(GOLDEN[f'{c}/grad'], GOLDEN[f'{c}/clipped']) for c in CASES]
  assert any(unchanged)
  assert not all(unchanged)


@pytest.mark.parametrize('case', CASES)
def test_matches_published_clipping(case):
  param, grad, expected = (
    GOLDEN[f'{case}/{key}'].astype(np.float32) for key in ('param', 'grad', 'clipped')
  )
  clipped = _clip({'m': {'w': grad}}, {'m': {'w': param}})['m']['w']
  assert clipped.dtype == jnp.float32
  np.testing.assert_allclose(clipped, expected, rtol=1e-6, atol=1e-6)


def test_conv_3d_is_clipped_per_output():
  rng = np.random.default_rng(0)
  param = rng.standard_normal((2, 3, 3, 4, 5))
  grad = rng.standard_normal((2, 3, 3, 4, 5)) * np.array([1e-4, 1, 1e-4, 3, 1])
  expected = grad.copy()
  for unit in range(5):
    limit = 0.01 * np.linalg.norm(param[..., unit])
    expected[..., unit] *= min(1.0, limit / np.linalg.norm(grad[..., unit]))
  np.testing.assert_allclose(_clip(jnp.asarray(grad), jnp.asarray(param)), expected, rtol=1e-5)


@pytest.mark.parametrize(
  ('shape', 'axes'),
  [
    ((), ()),
    ((8,), (0,)),
    ((1, 9), (0, 1)),
    ((1, 1, 1, 6), (0, 1, 2, 3)),
    ((16, 10), (0,)),
    ((4, 5, 6), (0,)),
    ((3, 3, 4, 8), (0, 1, 2)),
    ((2, 3, 3, 4, 8), (0, 1, 2, 3)),
  ],
)
def test_unit_axes_are_those_that_optax_clips_over(shape, axes):
  assert optim.unit_axes(shape) == axes
  x = np.random.default_rng(1).standard_normal(shape)
  ours = np.broadcast_to(np.sqrt(np.sum(x**2, axis=axes, keepdims=True)), shape)
  np.testing.assert_allclose(optax.transforms.unitwise_norm(jnp.asarray(x)), ours, rtol=1e-6)


@pytest.mark.parametrize('case', CASES)
def test_clipped_share_counts_the_units_that_change(case):
  param, grad, clipped = (GOLDEN[f'{case}/{key}'] for key in ('param', 'grad', 'clipped'))
  changed = np.any(~np.isclose(grad, clipped, rtol=1e-6, atol=0), axis=optim.unit_axes(param.shape))
  counts = jax.jit(lambda g, p: clipped_share(g, p, CLIPPING, EPS))(grad, param)
  assert counts.clipped.dtype == jnp.int32
  assert (int(counts.clipped), int(counts.units)) == (changed.sum(), changed.size)


def test_clipped_share_sums_per_group():
  params = {
    'net/~/conv': {'w': np.ones((3, 3, 2, 4)), 'bias': np.ones(4)},
    'net/~/linear': {'w': np.ones((4, 7)), 'b': np.ones(7)},
  }
  grads = jax.tree.map(lambda x: 1e-4 * x, params)
  grads['net/~/conv']['w'] = grads['net/~/conv']['w'] * np.array([1, 1e4, 1, 1e4])
  counts = clipped_share(grads, params, 0.01)
  groups = assign(params)
  assert sum_by_group(counts.clipped, groups) == {
    'weights': 2,
    'gains_and_biases': 0,
    'classifier': 0,
  }
  assert sum_by_group(counts.units, groups) == {
    'weights': 4,
    'gains_and_biases': 2,
    'classifier': 7,
  }


# Two layers whose gradients are 100 times their limits; the first one's weights are the larger.
PARAMS = {'a': {'w': jnp.full((4, 3), 50.0)}, 'b': {'w': jnp.full((4, 3), 0.5), 'b': jnp.ones(3)}}
GRADS = jax.tree.map(jnp.array, PARAMS)
FROZEN = {'a': {'w': None}, 'b': GRADS['b']}


@pytest.mark.parametrize('mask', [None, lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)])
def test_a_gradient_left_out_stays_out_and_the_others_have_their_own_weights(mask):
  tx = adaptive_grad_clip(0.01, mask=mask)
  clipped, _ = jax.jit(tx.update)(FROZEN, tx.init(PARAMS), PARAMS)
  assert clipped['a'] == {'w': None}
  np.testing.assert_allclose(np.linalg.norm(clipped['b']['w'], axis=0), 0.01, rtol=1e-5)
  counts = clipped_share(FROZEN, PARAMS, 0.01)
  assert counts.units == {'a': {'w': None}, 'b': {'w': 3, 'b': 1}}
  assert jax.tree.map(int, counts.clipped) == counts.units
  groups = assign(PARAMS, classifier='')
  assert sum_by_group(counts.units, groups) == {'weights': 3, 'gains_and_biases': 1}


def test_what_optax_masks_stays_masked():
  tx = optax.masked(adaptive_grad_clip(0.01), {'a': {'w': False}, 'b': {'w': True, 'b': True}})
  clipped, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  np.testing.assert_array_equal(clipped['a']['w'], GRADS['a']['w'])
  np.testing.assert_allclose(np.linalg.norm(clipped['b']['w'], axis=0), 0.01, rtol=1e-5)
  hidden = {**GRADS, 'a': {'w': optax.MaskedNode()}}
  assert _clip(hidden, PARAMS)['a'] == {'w': optax.MaskedNode()}


@pytest.mark.parametrize(
  ('grads', 'params', 'sentence'),
  [
    (GRADS, {'b': PARAMS['b']}, "only the gradients have 'a/w'"),
    ({'b': GRADS['b']}, PARAMS, "only the parameters have 'a/w'"),
    (GRADS, {'c': PARAMS['a'], 'b': PARAMS['b']}, "only the gradients have 'a/w'"),
    (GRADS, FROZEN, "the parameters have nothing at 'a/w'"),
    (GRADS, {**PARAMS, 'a': {'w': [PARAMS['a']['w']]}}, "only the gradients have 'a/w'"),
    (GRADS, hk.data_structures.to_immutable_dict(PARAMS), 'not of one type: dict and Flat'),
    (GRADS, {**PARAMS, 'a': {'w': jnp.ones((1, 3))}}, r"at 'a/w' they are \(4, 3\) and \(1, 3\)"),
  ],
)
def test_trees_that_do_not_match_are_refused_by_the_path(grads, params, sentence):
  tx = adaptive_grad_clip(0.01)
  with pytest.raises(ValueError, match=sentence):
    tx.update(grads, tx.init(params), params)
  with pytest.raises(ValueError, match=sentence):
    clipped_share(grads, params, 0.01)


def test_sums_by_group_refuse_another_tree():
  with pytest.raises(ValueError, match="values and groups must be .* only the groups have 'a/w'"):
    sum_by_group({'b': {'w': 1, 'b': 2}}, assign(PARAMS, classifier=''))


def test_traced_numbers():
  values = np.float32([0.01, 0.04, 0.5])
  by_vmap = jax.jit(jax.vmap(lambda c: _clip(GRADS, PARAMS, clipping=c)))(values)
  shares = jax.vmap(lambda c: clipped_share(GRADS, PARAMS, c).clipped)(values)
  for i, clipping in enumerate(values):
    want = _clip(GRADS, PARAMS, clipping=float(clipping))['b']
    np.testing.assert_allclose(by_vmap['b']['w'][i], want['w'], rtol=1e-6)
    np.testing.assert_allclose(by_vmap['b']['b'][i], want['b'], rtol=1e-6)
  np.testing.assert_array_equal(shares['b']['w'], [3, 3, 3])
  injected = optax.inject_hyperparams(adaptive_grad_clip)(clipping=lambda step: 0.02 * (step + 1))
  state = injected.init(PARAMS)
  for clipping in (0.02, 0.04):
    clipped, state = jax.jit(injected.update)(GRADS, state, PARAMS)
    np.testing.assert_allclose(
      clipped['b']['w'], _clip(GRADS, PARAMS, clipping=clipping)['b']['w'], rtol=1e-6
    )


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_gradients_of_few_bits_whose_norm_is_beyond_them(dtype):
  grad = jnp.full((64, 2), 60000.0, dtype)  # the norm of a column is 480,000
  param = jnp.full((64, 2), 0.125, dtype)  # and 1
  for tree in (lambda x: x, lambda x: {'a': x[:, 0], 'b': x[:, 1]}):  # alone; vectors together
    clipped = _clip(tree(grad), tree(param), clipping=0.01)
    for leaf in jax.tree.leaves(clipped):
      assert leaf.dtype == dtype
      np.testing.assert_allclose(leaf.astype(jnp.float32), 0.01 / 8, rtol=1e-2)
    counts = clipped_share(tree(grad), tree(param), 0.01)
    assert sum(map(int, jax.tree.leaves(counts.clipped))) == 2


def _clip_per_output(param, grad, clipping, eps=1e-3):
  """Equation 3 of [NFNet] in float64, one output at a time."""
  clipped = grad.astype(np.float64)
  for unit in range(param.shape[-1]):
    limit = clipping * max(np.linalg.norm(param[..., unit]), eps)
    clipped[..., unit] *= min(1.0, limit / np.linalg.norm(grad[..., unit]))
  return clipped


@pytest.mark.parametrize(
  'shape', [(6, 5), (1, 5), (7, 4, 5), (1, 1, 1, 5), (3, 3, 2, 5), (2, 3, 3, 2, 5), (2,) * 6]
)
def test_per_output_clips_convolutions_of_every_rank_per_output(shape):
  rng = np.random.default_rng(0)
  param = rng.standard_normal(shape).astype(np.float32)
  grad = (0.02 * rng.standard_normal(shape)).astype(np.float32)
  tx = adaptive_grad_clip(0.02, unit_rule=optim.per_output)
  clipped, _ = tx.update({'w': grad}, tx.init(None), {'w': param})
  np.testing.assert_allclose(clipped['w'], _clip_per_output(param, grad, 0.02), rtol=1e-5)
  counts = clipped_share({'w': grad}, {'w': param}, 0.02, unit_rule=optim.per_output)
  assert counts.units['w'] == shape[-1]


def test_a_rule_of_the_migration_page_has_the_units_of_timm():
  page = (Path(__file__).parents[3] / 'docs' / 'migration' / 'from_timm.md').read_text()
  code = page.rpartition('```python\n')[2].partition('```')[0]
  scope = {}
  exec(code, scope)
  # Here, and timm's layout: one norm of vectors, else one per entry of the first axis.
  layouts = {
    'conv/w': ((3, 3, 2, 5), (3, 2, 0, 1)),
    'conv1/w': ((7, 2, 5), (2, 1, 0)),
    'linear/w': ((1, 5), (1, 0)),
    'conv/bias': ((5,), (0,)),
    'conv/skip_gain': ((), ()),
  }
  rng = np.random.default_rng(0)
  for path, (shape, order) in layouts.items():
    x = rng.standard_normal(shape)
    theirs = x.transpose(order)
    axes = None if theirs.ndim <= 1 else tuple(range(1, theirs.ndim))
    want = np.sum(theirs**2, axis=axes)
    got = np.sum(x**2, axis=scope['timm_units'](path, shape))
    np.testing.assert_allclose(got, want)
  assert scope['timm_units']('conv/gain', (5,)) == ()
  grads, params = {'c': {'gain': jnp.array([1.0, 1e-3])}}, {'c': {'gain': jnp.ones(2)}}
  tx = adaptive_grad_clip(0.01, unit_rule=scope['timm_units'])
  clipped, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(clipped['c']['gain'], [0.01, 1e-3], rtol=1e-6)
  assert clipped_share(grads, params, 0.01, unit_rule=scope['timm_units']).units['c']['gain'] == 2


def test_a_rule_is_asked_by_path():
  asked = []

  def rule(path, shape):
    asked.append((path, shape))
    return optim.per_output(path, shape) if path == 'net/~/conv/w' else optim.unit_axes(shape)

  param = jnp.asarray(np.random.default_rng(0).standard_normal((7, 4, 5)), jnp.float32)
  params = {'net/~/conv': {'w': param}, 'net/~/heads': {'w': param, 'b': jnp.ones(5)}}
  grads = jax.tree.map(lambda x: 0.02 * x[::-1], params)
  tx = optim.nfnet_sgd(1.0, momentum=0, weight_decay=0, classifier='', unit_rule=rule)
  updates, _ = tx.update(grads, tx.init(params), params)
  per_output = _clip_per_output(np.array(param), np.array(grads['net/~/conv']['w']), 0.01)
  np.testing.assert_allclose(updates['net/~/conv']['w'], -per_output, rtol=1e-5)
  plain = _clip(grads, params, clipping=0.01)['net/~/heads']['w']
  np.testing.assert_allclose(updates['net/~/heads']['w'], -plain, rtol=1e-6)
  assert set(asked) == {
    ('net/~/conv/w', (7, 4, 5)), ('net/~/heads/w', (7, 4, 5)), ('net/~/heads/b', (5,))
  }  # fmt: skip


def test_haikus_immutable_trees_have_paths_too():
  asked = []
  rule = lambda path, shape: asked.append(path) or optim.unit_axes(shape)  # noqa: E731
  tx = adaptive_grad_clip(0.01, unit_rule=rule)
  grads, params = map(hk.data_structures.to_immutable_dict, (GRADS, PARAMS))
  clipped, _ = tx.update(grads, tx.init(params), params)
  assert asked == ['a/w', 'b/b', 'b/w']
  assert jax.tree.structure(clipped) == jax.tree.structure(params)
  np.testing.assert_array_equal(clipped['b']['w'], _clip(GRADS, PARAMS, clipping=0.01)['b']['w'])


@pytest.mark.parametrize('axes', [0, (3,), (0, 0), (-1,), None])
def test_a_rule_that_names_no_axes_is_refused(axes):
  tx = adaptive_grad_clip(0.01, unit_rule=lambda path, shape: axes)
  with pytest.raises(ValueError, match="unit_rule gave .* for 'a/w' of shape .4, 3.; expected"):
    tx.update(GRADS, tx.init(PARAMS), PARAMS)


def test_missing_params_is_refused():
  tx = adaptive_grad_clip(0.01)
  with pytest.raises(ValueError, match='got none'):
    tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_six_axes_are_refused():
  x = jnp.ones((2,) * 6)
  with pytest.raises(ValueError, match='no rule'):
    _clip(x, x)


@pytest.mark.parametrize(
  'bad', [0.0, -0.01, float('nan'), float('inf'), jnp.float32(-1), np.ones(3), '0.1']
)
def test_bad_numbers_are_refused(bad):
  with pytest.raises(ValueError, match='clipping must be'):
    adaptive_grad_clip(bad)
  with pytest.raises(ValueError, match='eps must be'):
    adaptive_grad_clip(0.01, bad)
  with pytest.raises(ValueError, match='clipping must be'):
    clipped_share(jnp.ones(3), jnp.ones(3), bad)


@pytest.mark.parametrize(
  ('batch_size', 'clipping'),
  [(4096, 0.01), (1024, 0.01), (1023, 0.02), (256, 0.04), (128, 0.08), (64, 0.16), (1, 0.16)],
)
def test_clipping_by_batch_size(batch_size, clipping):
  assert optim.clipping_for_batch(batch_size) == clipping


def test_clipping_comes_first_in_a_chain():
  clip = optim.adaptive_grad_clip(0.01)
  rest = optax.adam(1e-3)
  for wrong in ((rest, clip), (clip, clip), (rest, optim.chain(clip, optax.trace(0.9)))):
    with pytest.raises(ValueError, match='is number 2 of 2 in the chain.* before the optimiser'):
      optim.chain(*wrong)
  with pytest.raises(ValueError, match='before the optimiser'):
    optim.chain(optax.trace(0.9), optim.nfnet_sgd(0.1))
  params = {'a': jnp.full((3, 4), 2.0)}
  grads = {'a': jnp.full((3, 4), 5.0)}
  ours, theirs = optim.chain(clip, rest), optax.chain(clip, rest)
  got, _ = ours.update(grads, ours.init(params), params)
  want, _ = theirs.update(grads, theirs.init(params), params)
  np.testing.assert_array_equal(got['a'], want['a'])


def test_extra_arguments_reach_what_stands_behind_the_clipping():
  tx = optim.chain(
    optim.adaptive_grad_clip(0.01), optax.sgd(1.0), optax.contrib.reduce_on_plateau(0.5, patience=1)
  )
  nested = optax.chain(optim.adaptive_grad_clip(0.01), optim.chain(tx, optax.scale(1.0)))
  state = nested.init(PARAMS)
  first, state = nested.update(GRADS, state, PARAMS, value=1.0)
  second, state = nested.update(GRADS, state, PARAMS, value=1.0)
  np.testing.assert_allclose(second['b']['w'], 0.5 * first['b']['w'], rtol=1e-6)
