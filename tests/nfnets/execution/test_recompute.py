"""Recomputed functions against plain ones, and the memory that they save."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import zoo
from nfnets.execution import convolution, strategy
from nfnets.execution.recompute import recomputed


def function(x, w, b):
  return jnp.tanh(jax.nn.gelu(x) @ w) + b


def arguments(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 3)
  shapes = ((5, 4), (4, 3), (3,))
  return [jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def test_values_and_gradients_are_those_of_the_function():
  with jax.enable_x64(True):
    args = arguments(jnp.float64)
    got, pull = jax.vjp(recomputed(function), *args)
    want, pull_plain = jax.vjp(function, *args)
    np.testing.assert_array_equal(got, want)
    for mine, plain in zip(pull(jnp.cos(want)), pull_plain(jnp.cos(want)), strict=True):
      np.testing.assert_allclose(mine, plain, rtol=1e-12)


def test_second_derivatives_and_vmap():
  args = arguments()

  def curvature(f):
    def norm(x):
      return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.sin(f(x, *args[1:]))))(x) ** 2)

    return jax.grad(norm)(args[0])

  np.testing.assert_allclose(curvature(recomputed(function)), curvature(function), rtol=1e-5)
  many = jnp.stack([args[0], -args[0]])
  got = jax.vmap(jax.grad(lambda x: jnp.sum(recomputed(function)(x, *args[1:]))))(many)
  want = jax.vmap(jax.grad(lambda x: jnp.sum(function(x, *args[1:]))))(many)
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('value', [np.inf, -np.inf, np.nan])
def test_a_cotangent_that_is_not_finite_spoils_no_more_than_its_own(value):
  x = jnp.asarray([1.0, 2.0])
  _, pull = jax.vjp(recomputed(jnp.square), x)
  np.testing.assert_array_equal(pull(jnp.asarray([value, 3.0]))[0], [2 * value, 12.0])


def test_a_network_on_a_cpu_keeps_half_and_has_the_same_gradient(monkeypatch):
  spec = zoo.get_spec('F0').replace(
    width=(64, 64, 128, 128), depth=(1, 1, 2, 1), group_width=(32,) * 4, head_channels=64
  )
  net = hk.transform(lambda *args, **kwargs: nfnets.create_model(spec, 10)(*args, **kwargs))
  images = jax.random.normal(jax.random.key(0), (8, 64, 64, 3))
  params = jax.jit(lambda: net.init(jax.random.key(0), images[:1], is_training=True))()
  params = jax.tree.map(lambda x: x + 0.1, params)  # no skip gain is zero

  def gradient(convolutions):
    def loss(params):
      logits = net.apply(params, jax.random.key(1), images, is_training=True)['logits']
      return jnp.mean(logits**2)

    with strategy(convolutions, training_step=True):
      compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    return compiled(params), compiled.memory_analysis().temp_size_in_bytes

  ours, memory = gradient('cpu')
  plain, _ = gradient('plain')
  for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
  monkeypatch.setattr(convolution, 'recomputed', lambda function: function)
  assert memory < 0.6 * gradient('cpu')[1]


def test_the_second_computation_has_the_strategy_of_the_first():
  x, w = jnp.ones((1, 8, 8, 12)), jnp.ones((3, 3, 4, 12))
  with strategy('cpu', training_step=True):
    _, pull = jax.vjp(lambda x, w: convolution.convolve(x, w, before=jnp.tanh, groups=3), x, w)
  with strategy('plain'):
    text = str(jax.make_jaxpr(pull)(jnp.ones((1, 8, 8, 12))))
  assert 'feature_group_count=3' not in text


def test_the_gradient_of_an_empty_batch_is_zero():
  w = jnp.ones((3, 3, 4, 12))

  def loss(w):
    x = jnp.zeros((0, 8, 8, 12))
    return jnp.sum(convolution.convolve(x, w, jnp.ones(12), before=jnp.tanh, groups=3))

  with strategy('cpu', training_step=True):
    np.testing.assert_array_equal(jax.grad(loss)(w), 0.0)


@pytest.mark.parametrize('stages', [(), (0,), (0, 1)])
def test_chosen_stages_are_computed_again_with_the_same_gradient(monkeypatch, stages):
  monkeypatch.setattr(convolution, '_WIDE', 1)
  spec = zoo.get_spec('F0').replace(
    width=(16, 32), depth=(1, 1), stride=(1, 2), group_width=(4, 8), head_channels=16
  )
  net = hk.transform(lambda *args, **kwargs: nfnets.create_model(spec, 5)(*args, **kwargs))
  with jax.enable_x64(True):
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    params = jax.jit(lambda: net.init(jax.random.key(0), images[:1], is_training=True))()
    params = jax.tree.map(lambda x: x + 0.1, params)

    def loss(params):
      logits = net.apply(params, jax.random.key(1), images, is_training=True)['logits']
      return jnp.mean(logits**2)

    outcomes, texts = [], []
    for convolutions, squares, remat in (('tpu', 'on', stages), ('plain', 'off', ())):
      with strategy(convolutions, space_to_depth=squares, rematerialize=remat):
        run = jax.jit(lambda params: jax.value_and_grad(loss)(params))
        texts.append(str(jax.make_jaxpr(run)(params)))
        outcomes.append(run(params))
  assert [text.count('prevent_cse') for text in texts] == [len(stages), 0]
  # On a TPU no convolution is left with groups.
  assert ['feature_group_count=2' in text for text in texts] == [False, True]
  for ours, plain in zip(*map(jax.tree.leaves, outcomes), strict=True):
    np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-12)


def test_rematerialized_stages_take_no_more_memory_on_a_cpu_and_must_be_there():
  spec = nfnets.ModelSpec(
    width=(32, 32),
    depth=(2, 2),
    stride=(1, 2),
    group_width=8,
    head_channels=16,
    stochdepth_rate=0.0,
  )
  net = hk.transform(lambda x: nfnets.NFNet(5, spec)(x, is_training=True)['logits'])
  images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
  params = jax.eval_shape(net.init, jax.random.key(0), images)

  def memory(stages):
    def loss(params, images):
      return jnp.mean(net.apply(params, None, images) ** 2)

    with strategy('cpu', training_step=True, rematerialize=stages):
      compiled = jax.jit(jax.grad(loss)).lower(params, images).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert memory((0, 1)) <= memory(())
  for stages in ((2,), (-1,)):
    with (
      strategy(rematerialize=stages),
      pytest.raises(ValueError, match='names a stage that NFNet does not have: its 2 stages are 0'),
    ):
      jax.eval_shape(net.init, jax.random.key(0), images)
