"""Haiku's mixed-precision policies: parameters float32, compute bfloat16, output float32."""

import haiku as hk
import jax
import jax.numpy as jnp
import jmp
import numpy as np
import pytest

import nfnets
from nfnets import execution

POLICY = jmp.get_policy('params=float32,compute=bfloat16,output=float32')
SPECS = {
  'NFNet': nfnets.ModelSpec(width=(8, 16), depth=(1, 1), stride=(1, 2), group_width=4),
  # Its first block keeps the shape, so that nothing but the policy touches the stem's output.
  'no transition': nfnets.ModelSpec(width=(8,), depth=(2,), stride=(1,), group_width=4,
                                    stem=((3, 2, 8),)),
}  # fmt: skip


@pytest.fixture
def policy():
  hk.mixed_precision.set_policy(nfnets.NFNet, POLICY)
  yield
  hk.mixed_precision.clear_policy(nfnets.NFNet)


@pytest.mark.parametrize(
  ('spec', 'is_training', 'strategy'),
  [
    ('NFNet', True, {}),
    ('NFNet', True, {'convolutions': 'cpu', 'training_step': True}),
    ('NFNet', False, {'convolutions': 'tpu', 'space_to_depth': 'on'}),
    ('no transition', True, {}),
  ],
)
def test_a_policy_on_the_network(policy, spec, is_training, strategy):
  spec, dtypes = SPECS[spec], []

  def record(call, args, kwargs, context):
    out = call(*args, **kwargs)
    if isinstance(context.module, nfnets.WSConv2D) and context.method_name == '__call__':
      dtypes.append(out.dtype)
    return out

  net = hk.transform(
    lambda x: nfnets.NFNet(5, spec, stochdepth_rate=0.0, drop_rate=0.0)(x, is_training)
  )
  images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
  with execution.strategy(**strategy):
    params = jax.jit(net.init)(jax.random.key(0), images)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    with hk.intercept_methods(record):
      out = jax.jit(net.apply)(params, None, images)
  assert set(dtypes) == {jnp.dtype('bfloat16')}
  assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype('float32')}
  hk.mixed_precision.clear_policy(nfnets.NFNet)
  exact = jax.jit(lambda *args: net.apply(*args))(params, None, images)
  np.testing.assert_allclose(out['pool'], exact['pool'], rtol=0.05, atol=0.02)


def test_maps_of_the_stages_under_a_policy(policy):
  spec = SPECS['NFNet']
  net = hk.transform(lambda x: nfnets.NFNet(5, spec).features(x))
  images = np.ones((2, 16, 16, 3), np.float32)
  params = jax.jit(net.init)(jax.random.key(0), images)
  maps = jax.jit(net.apply)(params, None, images)
  assert {x.dtype for x in jax.tree.leaves(maps)} == {jnp.dtype('float32')}
