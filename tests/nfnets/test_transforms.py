"""Training calls under Haiku's tools and JAX's transformations, in every strategy."""

import contextlib

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import nfnets
from nfnets import execution, signal_propagation
from nfnets.backbone import NFBlock
from nfnets.block_plan import plan_blocks
from nfnets.execution import convolution

SPEC = nfnets.ModelSpec(
  width=(8,),
  depth=(1,),
  stride=(2,),
  group_width=2,
  stem=((3, 2, 4), (3, 1, 6)),
  head_channels=8,
  drop_rate=0.0,
  stochdepth_rate=0.0,
)
NUM_CONVOLUTIONS = 2 + 4 + 1 + 1  # stem, block, shortcut, final
STRATEGIES = {
  'default': {},
  'plain': {'convolutions': 'plain'},
  'recomputed': {'convolutions': 'cpu', 'training_step': True},
  'tpu': {'convolutions': 'tpu', 'space_to_depth': 'on'},
}
# 'plain' is what the others are compared with; on a CPU the default is 'cpu'.
COMPARED = ('default', 'recomputed', 'tpu')
FORWARD_MODE = ('default', 'tpu')


@pytest.fixture(autouse=True)
def narrow_groups_go_along_an_axis(monkeypatch):
  monkeypatch.setattr(convolution, '_WIDE', 1)


def network(images, is_training=True):
  return nfnets.create_model(SPEC, 5)(images, is_training)


NETWORK = hk.without_apply_rng(hk.transform(network))
IMAGES = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def params():
  initial = jax.jit(NETWORK.init)(jax.random.key(0), IMAGES)
  return jax.tree.map(lambda x: np.asarray(x + 0.1), initial)  # no branch is multiplied by zero


def loss(params, images=IMAGES):
  return jnp.mean(NETWORK.apply(params, images)['logits'] ** 2)


@pytest.fixture(scope='module')
def gradient(params):
  """Of the loss, as XLA computes it."""
  with execution.strategy('plain', space_to_depth='off'):
    return jax.jit(jax.grad(loss))(params)


def assert_close(got, want, rtol=2e-4):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(float(np.abs(b).max()), 1e-3))


def dot(a, b):
  return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


@pytest.fixture(params=COMPARED)
def strategy(request):
  with execution.strategy(**STRATEGIES[request.param]):
    yield request.param


@pytest.fixture(params=STRATEGIES)
def every_strategy(request):
  with execution.strategy(**STRATEGIES[request.param]):
    yield request.param


@pytest.fixture(params=FORWARD_MODE)
def forward_strategy(request):
  with execution.strategy(**STRATEGIES[request.param]):
    yield request.param


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('squares', ['on', 'off'])
def test_an_interceptor_sees_every_convolution(params, every_strategy, squares, is_training):
  seen = []

  def record(call, args, kwargs, context):
    if isinstance(context.module, nfnets.WSConv2D) and context.method_name == '__call__':
      seen.append(context.module.name)
    return call(*args, **kwargs)

  def watched(params):
    with hk.intercept_methods(record):
      return NETWORK.apply(params, IMAGES, is_training)['logits']

  with execution.strategy(space_to_depth=squares):
    jax.eval_shape(watched, params)
    assert len(seen) == NUM_CONVOLUTIONS
    seen.clear()
    jax.eval_shape(jax.grad(lambda params: jnp.sum(watched(params))), params)
  assert len(seen) == NUM_CONVOLUTIONS  # once, though their derivative may compute them again


def test_haikus_summary_lists_every_convolution(every_strategy):
  rows = hk.experimental.eval_summary(hk.transform(network))(IMAGES)
  modules = {row.module_details.module for row in rows}
  assert sum(isinstance(module, nfnets.WSConv2D) for module in modules) == NUM_CONVOLUTIONS


def test_statistics_of_a_training_call_are_those_of_plain_convolutions(params, strategy):
  statistics, _ = signal_propagation.measure(network, params, IMAGES)
  with execution.strategy('plain', space_to_depth='off'):
    want, _ = signal_propagation.measure(network, params, IMAGES)
  assert list(statistics) == list(want)
  assert sum('conv' in path for path in statistics) == NUM_CONVOLUTIONS
  assert_close(statistics, want)


def test_gradients_agree(params, gradient, strategy):
  assert_close(jax.jit(jax.grad(loss))(params), gradient)


def test_jvp_and_linearize(params, gradient, forward_strategy):
  direction = jax.tree.map(np.cos, params)
  slope = dot(gradient, direction)
  _, forward = jax.jit(lambda p, d: jax.jvp(loss, (p,), (d,)))(params, direction)
  np.testing.assert_allclose(forward, slope, rtol=1e-3)
  _, linear = jax.linearize(jax.jit(loss), params)
  np.testing.assert_allclose(linear(direction), slope, rtol=1e-3)


def test_a_hessian_vector_product_forward_over_reverse(params, forward_strategy):
  direction = jax.tree.map(np.cos, params)

  def product(params):
    return jax.jvp(jax.grad(loss), (params,), (direction,))[1]

  got = jax.jit(product)(params)
  with execution.strategy('plain', space_to_depth='off'):
    want = jax.jit(product)(params)
  assert_close(got, want, rtol=2e-3)


def test_forward_mode_of_what_is_recomputed_is_refused(params):
  direction = jax.tree.map(np.cos, params)
  with (
    execution.strategy(**STRATEGIES['recomputed']),
    pytest.raises(TypeError, match=r"can't apply forward-mode"),
  ):
    jax.jvp(loss, (params,), (direction,))


def test_a_hessian_vector_product_reverse_over_reverse(params, strategy):
  direction = jax.tree.map(np.cos, params)

  def product(params):
    def slope(params):
      return dot(jax.grad(loss)(params), direction)

    return jax.grad(slope)(params)

  got = jax.jit(product)(params)
  with execution.strategy('plain', space_to_depth='off'):
    want = jax.jit(product)(params)
  assert_close(got, want, rtol=2e-3)


def test_gradients_of_each_example(params, gradient, strategy):
  each = jax.vmap(jax.grad(lambda params, image: loss(params, image[None])), (None, 0))
  got = jax.jit(each)(params, IMAGES)
  assert_close(jax.tree.map(lambda x: jnp.mean(x, 0), got), gradient)


def test_an_ensemble(params, gradient, strategy):
  many = jax.tree.map(lambda x: np.stack([x, 0.5 * x]), params)
  got = jax.jit(jax.vmap(jax.grad(loss)))(many)
  assert_close(jax.tree.map(lambda x: x[0], got), gradient)


def test_remat_of_the_whole_network(params, gradient, strategy):
  net = hk.without_apply_rng(
    hk.transform(lambda images: hk.remat(lambda x: nfnets.create_model(SPEC, 5)(x, True))(images))
  )
  got = jax.jit(jax.grad(lambda p: jnp.mean(net.apply(p, IMAGES)['logits'] ** 2)))(params)
  assert_close(got, gradient)


def test_scan_over_equal_blocks(strategy):
  block_plan = plan_blocks(SPEC.replace(width=(8, 8), depth=1, stride=(2, 1)))[-1]  # keeps shapes
  x = np.random.default_rng(1).standard_normal((2, 4, 4, 8)).astype(np.float32)

  def body(x):
    return NFBlock(block_plan, SPEC)(x, True)

  stacked = hk.transform(hk.experimental.layer_stack(3)(body))
  params = jax.tree.map(lambda p: p + 0.1, jax.jit(stacked.init)(jax.random.key(0), x))
  one = hk.transform(body)

  def unrolled(params, key, x):
    for i in range(3):
      layer = {m.split('/', 1)[-1]: {n: p[i] for n, p in e.items()} for m, e in params.items()}
      x = one.apply(layer, key, x)
    return x

  def total(apply):
    return jax.jit(jax.grad(lambda params: jnp.sum(jnp.sin(apply(params, jax.random.key(1), x)))))(
      params
    )

  assert_close(total(stacked.apply), total(unrolled))


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_jit_with_named_shardings(params, gradient, strategy, axis_type):
  mesh = Mesh(np.array(jax.devices()[:1]), ('data',), axis_types=(axis_type,))
  context = jax.sharding.use_mesh if hasattr(jax.sharding, 'use_mesh') else jax.set_mesh
  with context(mesh) if axis_type == AxisType.Explicit else contextlib.nullcontext():
    images = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec('data')))
    replicated = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    assert_close(jax.jit(jax.grad(loss))(replicated, images), gradient)


def test_export_of_a_training_call(params, gradient, forward_strategy):
  exported = jax_export.export(jax.jit(jax.grad(loss)))(params)
  assert_close(exported.call(params), gradient)
