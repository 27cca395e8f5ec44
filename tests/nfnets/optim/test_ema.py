"""The moving average of parameters against the published decay schedule."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.optim import ema

GOLDEN = np.load(Path(__file__).parents[2] / 'golden' / 'optim.npz')
DECAY = float(GOLDEN['tf1_ema/decay'])


@pytest.mark.parametrize(
  ('step', 'kept'), list(zip(GOLDEN['tf1_ema/steps'], GOLDEN['tf1_ema/values'], strict=True))
)
def test_decay_matches_published_values(step, kept):
  np.testing.assert_allclose(ema.ema_decay(int(step), DECAY), kept, atol=1e-7)
  traced = jax.jit(lambda step: ema.ema_decay(step, DECAY))(jnp.int32(step))
  np.testing.assert_allclose(traced, kept, atol=1e-7)
  # The average of 1 (old) and 0 (new) is the weight kept.
  averaged = ema.update({'m': {'w': jnp.ones(2)}}, {'m': {'w': jnp.zeros(2)}}, int(step), DECAY)
  np.testing.assert_allclose(averaged['m']['w'], [kept, kept], atol=1e-7)


def test_late_updates_are_exact_in_float32():
  """The weight of new parameters is 1e-5 itself, not the 1.0014e-5 of float32's 1 - 0.99999."""
  old, new = {'w': jnp.zeros(3)}, {'w': jnp.ones(3)}
  averaged = jax.jit(lambda s: ema.update(old, new, s, DECAY))(jnp.int32(3_000_000))
  np.testing.assert_allclose(averaged['w'], 1 - DECAY, rtol=1e-6)


def test_sequence_against_float64():
  rng = np.random.default_rng(0)
  expected = rng.standard_normal((4, 3))
  average = {'m': {'w': jnp.asarray(expected, jnp.float32)}}
  for step in range(20):
    new = rng.standard_normal((4, 3))
    kept = min(0.5, (1 + step) / (10 + step))
    expected = kept * expected + (1 - kept) * new
    average = ema.update(average, {'m': {'w': jnp.asarray(new, jnp.float32)}}, step, 0.5)
  np.testing.assert_allclose(average['m']['w'], expected, rtol=1e-5, atol=1e-6)


def test_dtype_is_kept():
  averaged = ema.update({'w': jnp.ones(3, jnp.bfloat16)}, {'w': jnp.zeros(3, jnp.bfloat16)}, 0, 0.5)
  assert averaged['w'].dtype == jnp.bfloat16


def test_counters_are_taken_over():
  averaged = ema.update({'counter': jnp.int32(3)}, {'counter': jnp.int32(4)}, 0, 0.5)
  assert averaged['counter'] == 4
  assert averaged['counter'].dtype == jnp.int32


@pytest.mark.parametrize('decay', [-0.1, 1.1, float('nan')])
def test_bad_decay_is_refused(decay):
  with pytest.raises(ValueError, match='between 0 and 1'):
    ema.ema_decay(0, decay)


def test_without_warm_up_the_decay_is_that_of_every_step():
  assert float(ema.ema_decay(0, 0.75, warmup=False)) == 0.75
  averaged = ema.update({'w': jnp.zeros(2)}, {'w': jnp.ones(2)}, 0, 0.75, warmup=False)
  np.testing.assert_allclose(averaged['w'], 0.25)
  # From the first step on, as exact as the last ones with it.
  averaged = ema.update({'w': jnp.zeros(2)}, {'w': jnp.ones(2)}, 0, DECAY, warmup=False)
  np.testing.assert_allclose(averaged['w'], 1 - DECAY, rtol=1e-6)


@pytest.mark.parametrize('warmup', [True, False])
def test_traced_decay(warmup):
  def update(decay):
    return ema.update({'w': jnp.ones(2)}, {'w': jnp.zeros(2)}, 8, decay, warmup=warmup)['w'][0]

  averaged = jax.jit(jax.vmap(update))(jnp.array([0.25, 0.75]))
  np.testing.assert_allclose(averaged, [0.25, 0.5 if warmup else 0.75], rtol=1e-6)


@pytest.mark.parametrize(
  ('dtype', 'decay'),
  [(jnp.bfloat16, 0.999), (jnp.float16, 0.99999), (jnp.float32, 0.999999999)],
)
def test_an_average_that_could_not_move_is_refused_by_name(dtype, decay):
  average = {'net/~/conv': {'w': jnp.ones(2, dtype), 'b': jnp.ones(2)}}
  with pytest.raises(ValueError, match=r'net/~/conv/.* decay 0.999.* is 1: .* copy in float32'):
    ema.update(average, average, 0, decay)
  ema.update(average, average, 0, 1.0)  # who says 1 means it
  kept = {'w': jnp.zeros(2)}
  for step in range(100):  # an average in float32 of parameters in bfloat16 moves
    kept = ema.update(kept, {'w': jnp.ones(2, jnp.bfloat16)}, step, 0.99999, warmup=False)
  assert kept['w'].dtype == jnp.float32
  np.testing.assert_allclose(kept['w'], 1 - 0.99999**100, rtol=1e-4)


def test_an_average_in_bfloat16_is_rounded_once():
  old, new = jnp.bfloat16(1.0), jnp.bfloat16(-2.984375)
  averaged = ema.update(old, new, 0, 0.9, warmup=False)
  want = jnp.bfloat16(1.0 - 0.1 * 3.984375)  # in bfloat16 itself the result is one place off
  assert averaged == want


def test_leaves_that_are_no_averages():
  key = jax.random.key(0)
  old = {'count': 3, 'flag': jnp.bool_(False), 'key': key, 'none': None, 'z': jnp.complex64(0)}
  new = {**old, 'count': 4, 'flag': jnp.bool_(True), 'z': jnp.complex64(2j)}
  averaged = ema.update(old, new, 0, 0.5, warmup=False)
  assert (averaged['count'], bool(averaged['flag']), averaged['none']) == (4, True, None)
  assert averaged['key'] == key
  assert averaged['z'] == 1j
  with pytest.raises(ValueError, match="averages and parameters must be .* have 'b'"):
    ema.update({'a': 1.0}, {'a': 1.0, 'b': 1.0}, 0, 0.5)
