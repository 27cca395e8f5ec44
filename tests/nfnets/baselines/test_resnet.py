"""The batch-normalised ResNets: sizes, initial function, statistics."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import optim, zoo
from nfnets.baselines import ResNet, ResNetSpec

# Blocks of each stage, [SigProp] appendix.
DEPTHS = {
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
  288: (24, 24, 24, 24),
  600: (50, 50, 50, 50),
}
TINY = ResNetSpec(depth=(1, 2), width=(16, 32), stride=(1, 2), stem=((3, 1, 8),), stem_pool=False)
WITH_EVERYTHING = TINY.replace(
  expansion=0.5,
  group_width=4,
  se_ratio=0.5,
  shortcut='average_pool',
  stem=((3, 2, 8), (3, 1, 8)),
  stem_pool=True,
  depth=(1, 1),
  activation='gelu',
  two_convs=True,
  head_channels=48,
)


@pytest.fixture
def transformed(jit):
  """spec, constructor arguments -> compiled (init, apply) of (images, is_training, local)."""

  def make(spec, **arguments):
    f = hk.transform_with_state(
      lambda x, is_training, local=False: ResNet(10, spec, **arguments)(x, is_training, local)
    )
    return jit(f.init, static_argnums=2), jit(f.apply, static_argnums=(4, 5))

  return make


def count(tree):
  return sum(np.prod(a.shape, dtype=int) for a in jax.tree.leaves(tree))


def shapes_of(name):
  f = hk.transform_with_state(lambda x: zoo.create_model(name)(x, is_training=False))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(f.init, jax.random.key(0), images)


def v2_parameters(depth):
  """By hand: a stage of d blocks of inner width m, from i channels to 4 m."""
  total = 7 * 7 * 3 * 64 + 2 * 2048 + 2048 * 1000 + 1000
  i = 64
  for m, d in zip((64, 128, 256, 512), depth, strict=True):
    first = 2 * i + i * m + i * 4 * m  # normalisation, first convolution, shortcut
    other = (d - 1) * (2 * 4 * m + 4 * m * m)
    total += first + other + d * (2 * m + 9 * m * m + 2 * m + 4 * m * m)
    i = 4 * m
  return total


@pytest.mark.parametrize('n', DEPTHS)
def test_parameter_counts_of_resnet_v2(n):
  params, state = shapes_of(f'BN-ResNet-{n}')
  assert count(params) == v2_parameters(DEPTHS[n])
  counters = [module for module, entries in state.items() if 'counter' in entries]
  assert len(counters) == 2 * (3 * sum(DEPTHS[n]) + 1)  # of a mean and a variance each


def test_resnet_50_v2_has_its_well_known_size():
  assert v2_parameters(DEPTHS[50]) == 25_549_352


@pytest.mark.parametrize('n', [50, 101, 152])
def test_parameter_counts_of_se_resnext_d(n):
  stem = 27 * 32 + 2 * 32 + 9 * 32 * 32 + 2 * 32 + 9 * 32 * 64
  total = stem + 2 * 2048 + 2048 * 1000 + 1000
  i = 64
  for c, d in zip((256, 512, 1024, 2048), DEPTHS[n], strict=True):
    m = c // 2
    attention = 2 * c * m + m + c
    inner = 2 * m + 9 * 128 * m + 2 * m + m * c + attention
    total += d * inner + (2 * i + i * m + i * c) + (d - 1) * (2 * c + c * m)
    i = c
  assert count(shapes_of(f'BN-SE-ResNeXt-D-{n}')[0]) == total


@pytest.mark.parametrize('n', range(8))
def test_parameter_counts_of_the_nfnets_twins(n):
  stem = 27 * 16 + 2 * 16 + 9 * 16 * 32 + 2 * 32 + 9 * 32 * 64 + 2 * 64 + 9 * 64 * 128
  total = stem + 1536 * 3072 + 2 * 3072 + 3072 * 1000 + 1000
  i = 128
  for c, blocks in zip((256, 512, 1536, 1536), (1, 2, 6, 3), strict=True):
    d, m = blocks * (n + 1), c // 2
    attention = 2 * c * m + m + c
    inner = 3 * 2 * m + 2 * 9 * 128 * m + m * c + attention
    total += d * inner + (2 * i + i * m + i * c) + (d - 1) * (2 * c + c * m)
    i = c
  params, _ = shapes_of(f'BN-F{n}')
  assert count(params) == total
  assert zoo.get_spec(f'BN-F{n}').test_size == zoo.get_spec(f'F{n}').test_size


def test_a_twin_differs_from_its_nfnet_by_what_replaces_normalisation():
  network = hk.transform(lambda x: zoo.create_model('F0')(x, is_training=False))
  free = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), 'f4'))

  def kernels(tree):  # of convolutions and linear layers
    return sorted(entries['w'].shape for entries in tree.values() if 'w' in entries)

  assert kernels(shapes_of('BN-F0')[0]) == kernels(free)


@pytest.mark.parametrize('spec', [TINY, WITH_EVERYTHING], ids=['v2', 'everything'])
def test_every_parameter_has_a_group_and_a_gradient_after_one_step(spec, jit):
  f = hk.transform_with_state(lambda x: ResNet(10, spec)(x, is_training=True))
  images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
  params, state = jit(f.init)(jax.random.key(1), images)
  groups = optim.assign(params)
  assert groups['BN_ResNet/~/linear']['w'] == 'classifier'

  @jit
  def gradients(params):
    def loss(params):
      logits = f.apply(params, state, None, images)[0]['logits']
      return jnp.sum(jnp.sin(logits + jnp.arange(10)))

    return jax.grad(loss)(params)

  # The branches start at zero, so at first only their last convolutions learn.
  moved = jax.tree.map(lambda w, g: w - 0.1 * g, params, gradients(params))
  second = gradients(moved)
  unmoved = [
    f'{module}/{name}'
    for module, entries in second.items()
    for name, gradient in entries.items()
    if not jnp.any(gradient)
  ]
  assert unmoved == []


def test_blocks_start_as_the_identity(jit):
  f = hk.transform_with_state(
    lambda x: ResNet(10, TINY.replace(depth=(3,), width=(16,), stride=(1,))).features(x, True)
  )
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params, state = jit(f.init)(jax.random.key(1), images)
  path = 'BN_ResNet/~/block/~/conv_shortcut'
  no_shortcut = {**params, path: jax.tree.map(jnp.zeros_like, params[path])}
  maps, _ = jit(f.apply)(no_shortcut, state, None, images)
  assert jnp.any(maps['stem'])
  assert not jnp.any(maps['stage0'])


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_running_statistics_become_those_of_the_data(dtype, transformed):
  init, apply = transformed(WITH_EVERYTHING)
  images = 3 + 2 * jax.random.normal(jax.random.key(0), (16, 16, 16, 3))
  params, state = init(jax.random.key(1), images, False)
  params, images = jax.tree.map(lambda x: x.astype(dtype), (params, images))
  trained, state = apply(params, state, None, images, True)
  assert trained['logits'].dtype == dtype
  assert all(a.dtype in ('float32', 'int32') for a in jax.tree.leaves(state))
  # After one batch its own statistics are the running ones.
  running, unchanged = apply(params, state, None, images, False)
  jax.tree.map(np.testing.assert_array_equal, unchanged, state)
  tolerance = 1e-4 if dtype == 'float32' else 0.05
  np.testing.assert_allclose(
    *(np.float32(out['pool']) for out in (running, trained)), rtol=tolerance, atol=tolerance
  )
  # Of other images only the local statistics are right.
  others = 5 * images + 1
  local, unchanged = apply(params, state, None, others, False, True)
  jax.tree.map(np.testing.assert_array_equal, unchanged, state)
  now, _ = apply(params, state, None, others, True)
  np.testing.assert_allclose(
    *(np.float32(out['pool']) for out in (local, now)), rtol=tolerance, atol=tolerance
  )
  far, _ = apply(params, state, None, others, False)
  assert jnp.max(jnp.abs(far['pool'] - local['pool'])) > 0.1


def test_devices_can_share_their_statistics(transformed):
  images = jax.random.normal(jax.random.key(0), (2, 4, 8, 8, 3))
  images *= jnp.array([1, 3]).reshape(2, 1, 1, 1, 1)
  together = images.reshape(8, 8, 8, 3)
  init, alone = transformed(TINY)
  _, shared = transformed(TINY, cross_replica_axis='replicas')
  params, state = init(jax.random.key(1), together, True)
  want, want_state = alone(params, state, None, together, True)
  out, out_state = jax.vmap(lambda x: shared(params, state, None, x, True), axis_name='replicas')(
    images
  )
  np.testing.assert_allclose(out['pool'].reshape(8, -1), want['pool'], rtol=1e-3, atol=1e-4)
  jax.tree.map(
    lambda got, want: np.testing.assert_allclose(got[0], want, rtol=1e-3, atol=1e-4),
    out_state,
    want_state,
  )


@pytest.mark.parametrize('is_training', [False, True])
def test_shared_statistics_need_no_axis_to_initialise(is_training):
  def shapes(axis):
    f = hk.transform_with_state(lambda x: ResNet(10, TINY, cross_replica_axis=axis)(x, is_training))
    return jax.eval_shape(f.init, jax.random.key(1), jnp.ones((2, 8, 8, 3)))

  assert shapes('replicas') == shapes(None)


def test_images_of_another_dtype_are_refused(transformed):
  with pytest.raises(ValueError, match='got uint8: nfnets.inference.preprocess'):
    transformed(TINY)[0](jax.random.key(0), jnp.ones((1, 8, 8, 3), jnp.uint8), False)


def test_stochastic_depth_grows_with_depth_and_keeps_the_mean():
  found = []

  def network(images):
    model = ResNet(10, TINY, stochdepth_rate=0.3)
    found.extend(block.stochastic_depth for stage in model.stages for block in stage)
    return model(images, is_training=True)

  jax.eval_shape(hk.transform_with_state(network).init, jax.random.key(0), jnp.ones((1, 8, 8, 3)))
  np.testing.assert_allclose([layer.rate for layer in found], [0, 0.1, 0.2])
  assert all(layer.rescale for layer in found)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'depth': (1,)}, 'a width, a depth and a stride for each stage'),
    ({'group_width': 3}, 'not a multiple of group_width=3'),
    ({'shortcut': 'none'}, 'shortcut must be one of'),
    ({'activation': 'gleu'}, "Unknown activation 'gleu'"),
    ({'drop_rate': 1.0}, r'drop_rate must be in \[0, 1\)'),
    ({'alpha': 0.2}, "no field 'alpha'"),
    ({'family': 'NFNet'}, "is of 'BN_ResNet', got family='NFNet'"),
  ],
)
def test_a_spec_that_gives_no_network(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    TINY.replace(**changes)


def test_a_spec_without_a_depth_and_an_unknown_variant(transformed):
  with pytest.raises(ValueError, match='ResNetSpec needs depth'):
    ResNetSpec.from_dict({'width': (8,)})
  with pytest.raises(ValueError, match=r"Unknown variant 'ResNet-51': choose one of ResNet-50"):
    transformed('ResNet-51')[0](jax.random.key(0), jnp.ones((1, 8, 8, 3)), True)
