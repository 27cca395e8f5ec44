"""Adaptive gradient clipping against the published implementation's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim
from nfnets.optim import adaptive_grad_clip, assign, clipped_share, sum_by_group
from nfnets.optim.agc import unit_axes

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
  assert unit_axes(shape) == axes
  x = np.random.default_rng(1).standard_normal(shape)
  ours = np.broadcast_to(np.sqrt(np.sum(x**2, axis=axes, keepdims=True)), shape)
  np.testing.assert_allclose(optax.transforms.unitwise_norm(jnp.asarray(x)), ours, rtol=1e-6)


@pytest.mark.parametrize('case', CASES)
def test_clipped_share_counts_the_units_that_change(case):
  param, grad, clipped = (GOLDEN[f'{case}/{key}'] for key in ('param', 'grad', 'clipped'))
  changed = np.any(~np.isclose(grad, clipped, rtol=1e-6, atol=0), axis=unit_axes(param.shape))
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


def test_missing_params_is_refused():
  tx = adaptive_grad_clip(0.01)
  with pytest.raises(ValueError, match='got none'):
    tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


def test_six_axes_are_refused():
  x = jnp.ones((2,) * 6)
  with pytest.raises(ValueError, match='no rule'):
    _clip(x, x)


@pytest.mark.parametrize('bad', [0.0, -0.01, float('nan'), float('inf')])
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
