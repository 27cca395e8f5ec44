"""The schedule against the published one, the optimiser chain against float64 by hand."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim
from nfnets.optim import UnknownParameterError, nfnet_sgd, warmup_cosine

GOLDEN = Path(__file__).parents[2] / 'golden'
OPTIM = np.load(GOLDEN / 'optim.npz')
TRAIN = np.load(GOLDEN / 'train.npz')
SHAPES = {
  'net/~/conv': {'w': (3, 3, 2, 4), 'gain': (4,), 'bias': (4,)},
  'net/~/nf_block': {'skip_gain': ()},
  'net/~/nf_block/~/squeeze_excite/~/linear': {'w': (4, 3), 'b': (3,)},
  'net/~/linear': {'w': (4, 5), 'b': (5,)},
}


@pytest.mark.parametrize('jit', [False, True])
def test_schedule_matches_published_values(jit):
  schedule = warmup_cosine(peak=1.6, warmup_steps=37.5, total_steps=1000, floor=0.001)
  schedule = jax.jit(schedule) if jit else schedule
  values = [schedule(int(step)) for step in OPTIM['warmup_cosine/steps']]
  np.testing.assert_allclose(values, OPTIM['warmup_cosine/values'], rtol=0, atol=1e-6)


def test_schedule_matches_published_training_run():
  config = json.loads(str(TRAIN['config']))
  schedule = warmup_cosine(
    peak=config['lr'], warmup_steps=config['warm'], total_steps=config['total']
  )
  rates = [schedule(step) for step in range(config['steps'])]
  np.testing.assert_allclose(rates, TRAIN['lrs'], atol=1e-7)


def test_schedule_without_warm_up_and_after_its_end():
  schedule = warmup_cosine(peak=2.0, warmup_steps=0, total_steps=10, floor=0.5)
  np.testing.assert_allclose([schedule(s) for s in (0, 5, 10, 99)], [2, 1.25, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
  'bad',
  [
    {'warmup_steps': 100},
    {'warmup_steps': -1},
    {'total_steps': float('inf')},
    {'floor': 2.0},
    {'peak': -1.0},
    {'peak': float('nan')},
  ],
)
def test_schedule_refuses_bad_numbers(bad):
  with pytest.raises(ValueError, match='expected 0 <='):
    warmup_cosine(**{'peak': 1.0, 'warmup_steps': 5, 'total_steps': 100, **bad})


def _random_tree(rng, scale):
  return {m: {n: scale * rng.standard_normal(s) for n, s in e.items()} for m, e in SHAPES.items()}


def _as_float32(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def _clip_by_hand(grad, param, clipping, eps):
  """Equation 3 of [NFNet], one unit at a time, in float64."""
  grad = grad.copy()
  units = [(..., unit) for unit in range(grad.shape[-1])] if grad.ndim > 1 else [...]
  for unit in units:
    limit = clipping * max(np.linalg.norm(param[unit]), eps)
    norm = np.linalg.norm(grad[unit])
    if norm > limit:
      grad[unit] *= limit / norm
  return grad


def _step_by_hand(params, grads, traces, rate, clipping):
  """One whole update in float64: clip, decay, Nesterov momentum, learning rate."""
  for module, entries in params.items():
    for name, param in entries.items():
      grad = grads[module][name]
      if clipping and (module, name) != ('net/~/linear', 'w'):
        grad = _clip_by_hand(grad, param, clipping, eps=1e-3)
      if name == 'w':
        grad = grad + 0.05 * param
      traces[module][name] = 0.9 * traces[module][name] + grad
      entries[name] = param - rate * (grad + 0.9 * traces[module][name])


@pytest.mark.parametrize('clipping', [0.01, None])
@pytest.mark.parametrize('scheduled', [False, True])
def test_chain_against_float64_by_hand(clipping, scheduled):
  rng = np.random.default_rng(3)
  expected = _random_tree(rng, 1.0)
  start = jax.tree.map(np.copy, expected)
  params = _as_float32(expected)
  traces = jax.tree.map(np.zeros_like, expected)
  rates = [0.5, 0.25, 0.125] if scheduled else [0.3] * 3
  learning_rate = (lambda count: jnp.asarray(rates)[count]) if scheduled else 0.3
  tx = nfnet_sgd(learning_rate, weight_decay=0.05, clipping=clipping)
  state = tx.init(params)
  update = jax.jit(tx.update)
  for rate in rates:
    # Gradients around the clipping limit, so that some units are clipped and some are not.
    grads = _random_tree(rng, 0.01)
    _step_by_hand(expected, grads, traces, rate, clipping)
    updates, state = update(_as_float32(grads), state, params)
    params = optax.apply_updates(params, updates)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6), params, expected
  )
  moved = jax.tree.map(lambda a, b: bool(np.any(np.abs(a - b) > 1e-4)), start, expected)
  assert all(jax.tree.leaves(moved))


def test_classifier_can_be_named():
  params = {'net/~/logits': {'w': jnp.ones((2, 3))}, 'net/~/linear': {'w': jnp.ones((2, 3))}}
  grads = jax.tree.map(lambda x: 10 * x, params)
  tx = nfnet_sgd(1.0, momentum=0, weight_decay=0, classifier='net/~/logits')
  updates, _ = tx.update(grads, tx.init(params), params)
  np.testing.assert_allclose(updates['net/~/logits']['w'], -10.0)
  np.testing.assert_allclose(updates['net/~/linear']['w'], -0.01, rtol=1e-5)
  with pytest.raises(ValueError, match='2 linear layers'):
    nfnet_sgd(1.0).init(params)
  nfnet_sgd(1.0, clipping=None).init(params)


def test_unknown_parameter_fails_at_init():
  params = {'net/~/linear': {'w': jnp.ones((2, 3)), 'temperature': jnp.ones(())}}
  for clipping in (0.01, None):
    with pytest.raises(UnknownParameterError, match='net/~/linear/temperature'):
      nfnet_sgd(0.1, clipping=clipping).init(params)
  nfnet_sgd(0.1, names={'temperature': 'gains_and_biases'}).init(params)


@pytest.mark.parametrize(
  'bad',
  [{'momentum': 1.0}, {'weight_decay': -1.0}, {'clipping': 0.0}, {'eps': 0.0}, {'momentum': -0.1}],
)
def test_chain_refuses_bad_numbers(bad):
  with pytest.raises(ValueError, match=next(iter(bad))):
    nfnet_sgd(0.1, **bad)


def test_chain_refuses_bad_learning_rate_and_missing_params():
  with pytest.raises(ValueError, match='learning_rate'):
    nfnet_sgd(-0.1)
  params = {'net/~/linear': {'w': jnp.ones((2, 3))}}
  tx = nfnet_sgd(0.1)
  with pytest.raises(ValueError, match=r'(?i)params'):
    tx.update(params, tx.init(params))


def test_adamw_by_hand_after_clipping():
  rng = np.random.default_rng(0)
  params = {
    'Net/~/conv': {'w': rng.normal(size=(3, 3, 2, 4)), 'bias': rng.normal(size=4)},
    'Net/~/linear': {'w': rng.normal(size=(4, 3)), 'b': rng.normal(size=3)},
  }
  params = jax.tree.map(jnp.float32, params)
  clip, decay, rate, b1, b2 = 0.02, 0.1, 0.01, 0.8, 0.9
  optimizer = optim.nfnet_adamw(rate, b1=b1, b2=b2, weight_decay=decay, clipping=clip)
  state = optimizer.init(params)
  m = v = jax.tree.map(np.zeros_like, params)
  for step in range(1, 4):
    grads = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), params)
    clipped = optim.adaptive_grad_clip(clip).update(grads, optax.EmptyState(), params)[0]
    clipped = {
      **clipped,
      'Net/~/linear': {**clipped['Net/~/linear'], 'w': grads['Net/~/linear']['w']},
    }
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, clipped)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g**2, v, clipped)
    updates, state = optimizer.update(grads, state, params)
    for module, entries in params.items():
      for name, value in entries.items():
        adam = m[module][name] / (1 - b1**step)
        adam /= np.sqrt(v[module][name] / (1 - b2**step)) + 1e-8
        want = -rate * (adam + (decay * value if name == 'w' else 0))
        np.testing.assert_allclose(updates[module][name], want, rtol=2e-4, atol=1e-7)
    params = optax.apply_updates(params, updates)


@pytest.mark.parametrize('option', [{'b1': 1.0}, {'b2': -0.1}, {'adam_eps': 0.0}])
def test_adamw_refuses_numbers_out_of_range(option):
  with pytest.raises(ValueError, match=f'{next(iter(option))} must be'):
    optim.nfnet_adamw(0.1, **option)


def _problem():
  rng = np.random.default_rng(1)
  return _as_float32(_random_tree(rng, 1.0)), _as_float32(_random_tree(rng, 0.05))


_NUMBERS = {
  'learning_rate': (0.3, 0.1),
  'weight_decay': (0.05, 0.0),
  'clipping': (0.01, 0.05),
  'eps': (1e-3, 1e-1),
}


@pytest.mark.parametrize(
  ('recipe', 'numbers'),
  [
    (nfnet_sgd, {**_NUMBERS, 'momentum': (0.9, 0.5)}),
    (
      optim.nfnet_adamw,
      {**_NUMBERS, 'b1': (0.9, 0.5), 'b2': (0.999, 0.9), 'adam_eps': (1e-8, 0.1)},
    ),
  ],
)
def test_every_number_of_a_recipe_may_be_traced(recipe, numbers):
  params, grads = _problem()

  def two_steps(numbers):
    optimizer = recipe(**numbers)
    state, updates = optimizer.init(params), grads
    for _ in range(2):
      updates, state = optimizer.update(grads, state, params)
    return updates

  stacked = jax.tree.map(jnp.float32, numbers, is_leaf=lambda x: isinstance(x, tuple))
  got = jax.jit(jax.vmap(two_steps))(stacked)
  injected = optax.inject_hyperparams(recipe)(**{n: jnp.float32(v[1]) for n, v in numbers.items()})
  state = injected.init(params)
  for _ in range(2):
    by_injection, state = jax.jit(injected.update)(grads, state, params)
  for place in (0, 1):
    want = two_steps({name: values[place] for name, values in numbers.items()})
    for module, entries in want.items():
      for name, value in entries.items():
        np.testing.assert_allclose(got[module][name][place], value, rtol=1e-4, atol=1e-7)
        if place == 1:
          np.testing.assert_allclose(by_injection[module][name], value, rtol=1e-4, atol=1e-7)


def test_a_gradient_that_is_none_changes_nothing_for_the_others():
  params, grads = _problem()
  optimizer = optim.chain(
    nfnet_sgd(0.1, weight_decay=0.05), optax.contrib.reduce_on_plateau(0.5, patience=9)
  )
  state = optimizer.init(params)
  whole, _ = optimizer.update(grads, state, params, value=1.0)
  grads['net/~/conv'] = dict.fromkeys(grads['net/~/conv'])
  grads['net/~/linear'] = {**grads['net/~/linear'], 'w': None}
  left, _ = optimizer.update(grads, state, params, value=1.0)
  assert left['net/~/linear']['w'] is None
  assert set(left['net/~/conv'].values()) == {None}
  se = 'net/~/nf_block/~/squeeze_excite/~/linear'
  for module, name in (
    (se, 'w'),
    (se, 'b'),
    ('net/~/linear', 'b'),
    ('net/~/nf_block', 'skip_gain'),
  ):
    np.testing.assert_allclose(left[module][name], whole[module][name], rtol=1e-6)


def test_schedule_of_traced_numbers():
  numbers = {'peak': 1.5, 'warmup_steps': 0.0, 'total_steps': 40.0, 'floor': 0.25}
  several = {name: jnp.array([value, value + 0.5]) for name, value in numbers.items()}
  steps = np.array([0, 1, 10, 39, 60])
  got = jax.jit(jax.vmap(lambda numbers: warmup_cosine(**numbers)(steps)))(several)
  for i in (0, 1):
    want = warmup_cosine(**{name: float(values[i]) for name, values in several.items()})(steps)
    np.testing.assert_allclose(got[i], want, rtol=1e-5)
  with pytest.raises(ValueError, match='expected 0 <= warmup_steps'):
    jax.eval_shape(lambda peak: warmup_cosine(peak=peak, warmup_steps=5, total_steps=5)(0), 1.0)
