"""FixUp and SkipInit: sizes, how they start, the function itself, signal, groups, export."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import deploy, initialization, optim, zoo
from nfnets.baselines import FixUpSpec, SkipInitSpec
from nfnets.deploy import onnx_networks
from nfnets.signal_propagation import measure_blocks

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
SIZES = {'depth': (2, 1), 'width': (16, 24), 'stride': (1, 2), 'stem_width': 16, 'drop_rate': 0.1}
FIXUP, SKIPINIT = FixUpSpec(**SIZES), SkipInitSpec(**SIZES)
BOTH = pytest.mark.parametrize('spec', [FIXUP, SKIPINIT], ids=['fixup', 'skipinit'])


def of(spec):
  return hk.transform(lambda x, is_training=False: nfnets.create_model(spec, 5)(x, is_training))


IMAGES = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))


@pytest.fixture(scope='module')
def fresh(jit):
  """Spec -> its parameters as they start."""
  return functools.cache(lambda spec: jit(of(spec).init)(jax.random.key(1), IMAGES))


@pytest.fixture(scope='module')
def drawn(fresh):
  """Spec -> parameters none of which is where it starts."""

  @functools.cache
  def make(spec):
    rng = np.random.default_rng(2)
    return jax.tree.map(
      lambda x: x + np.float32(0.3) * rng.normal(size=x.shape).astype(np.float32), fresh(spec)
    )

  return make


@pytest.fixture(scope='module')
def apply(jit):
  """Spec -> (params, images) -> outputs, compiled once."""

  @functools.cache
  def make(spec):
    return jit(lambda params, x: of(spec).apply(params, None, x))

  return make


def by_hand(n, of_block, of_shortcut, rest):
  """Bottlenecks of c // 4 channels between i and c, behind a 7x7 convolution to 64."""
  total, i = 7 * 7 * 3 * 64 + 2048 * 1000 + 1000 + rest, 64
  for c, d in zip((256, 512, 1024, 2048), DEPTHS[n], strict=True):
    m = c // 4
    total += i * c + of_shortcut(c)
    for _ in range(d):
      total += i * m + 9 * m * m + m * c + of_block(m, c)
      i = c
  return total


@pytest.mark.parametrize('n', DEPTHS)
def test_parameter_counts(n):
  found = {
    kind: sum(
      np.prod(x.shape, dtype=int)
      for x in jax.tree.leaves(zoo.parameter_shapes(f'{kind}-ResNet-{n}', 1000))
    )
    for kind in ('FixUp', 'SkipInit')
  }
  assert found == {
    'FixUp': by_hand(n, lambda m, c: 6 + 1, lambda c: 0, 2),  # six biases and a scale
    'SkipInit': by_hand(n, lambda m, c: 2 * m + c + 1, lambda c: c, 0),
  }
  if n == 50:  # of the plain ResNet-50, 25,557,032 without its 53,120 of normalisation
    assert found['FixUp'] == 25_503_912 + 16 * 7 + 2


def test_how_fixup_starts():
  spec = FIXUP.replace(width=(256, 512), depth=(2, 2))
  params, _ = initialization.initialize(
    lambda x: nfnets.create_model(spec, 5)(x, is_training=False), jax.random.key(0), IMAGES
  )
  std = {
    (block, conv): float(jnp.std(params[f'FixUp_ResNet/~/{block}/~/{conv}']['w']))
    for block, conv in (
      ('block_1', 'conv0'), ('block_1', 'conv1'), ('block_3', 'conv1'), ('block', 'conv_shortcut')
    )
  }  # fmt: skip
  # He's by the outputs, and of 4 blocks 4 ** -0.25 = 0.5 ** 0.5 of it.
  assert std['block_1', 'conv0'] == pytest.approx((1 / 64) ** 0.5, rel=0.02)
  assert std['block_1', 'conv1'] == pytest.approx((1 / (9 * 64)) ** 0.5, rel=0.02)
  assert std['block_3', 'conv1'] == pytest.approx((1 / (9 * 128)) ** 0.5, rel=0.02)
  assert std['block', 'conv_shortcut'] == pytest.approx((2 / 256) ** 0.5, rel=0.05)
  for module, entries in params.items():
    for name, value in entries.items():
      if module.endswith(('conv2', 'linear')) or name == 'bias':
        assert not jnp.any(value)
      if name == 'scale':
        assert value == 1.0


@BOTH
def test_blocks_start_as_the_identity_and_logits_at_zero(spec, fresh, jit):
  same = spec.replace(depth=(2,), width=(16,), stride=(1,))

  def network(x):
    model = nfnets.create_model(same, 5)
    return model.features(x), model(x, is_training=False)

  path = f'{spec.family}/~'
  params = {m: e for m, e in fresh(spec).items() if 'block_2' not in m}
  linear = {'w': jnp.zeros((16, 5)), 'b': jnp.zeros(5)}
  assert not jnp.any(params[f'{path}/linear']['w'])
  params[f'{path}/linear'] = linear
  maps, out = jit(hk.transform(network).apply)(params, None, IMAGES)
  np.testing.assert_array_equal(maps['stage0'], maps['stem'])
  assert jnp.any(maps['stem'])
  assert jnp.any(out['pool'])
  assert not jnp.any(out['logits'])


def conv(x, entries, stride=1):
  out = jax.lax.conv_general_dilated(
    x, entries['w'], (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return out + entries.get('b', 0)


def by_formula(params, x, spec):
  """Pooled features and logits, written down from the papers."""
  root, relu = f'{spec.family}/~', jax.nn.relu
  is_fixup = spec.family == 'FixUp_ResNet'
  x = conv(x, params[f'{root}/stem_conv'], 2)
  x = relu(x + params[f'{root}/stem_bias']['bias']) if is_fixup else x
  window = ((1, 3, 3, 1), (1, 2, 2, 1), 'SAME')
  x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *window)
  for number, stride in enumerate((1, 1, 2)):
    path = f'{root}/block' + (f'_{number}' if number else '')
    p = {module.removeprefix(f'{path}/~/'): e for module, e in params.items()}
    own = params[path]
    if is_fixup:
      bias = {n: p[f'bias{n}']['bias'] for n in ('1a', '1b', '2a', '2b', '3a', '3b')}
      x = x + bias['1a']
      out = relu(conv(x, p['conv0']) + bias['1b'])
      out = relu(conv(out + bias['2a'], p['conv1'], stride) + bias['2b'])
      out = conv(out + bias['3a'], p['conv2']) * own['scale'] + bias['3b']
      x = conv(x, p['conv_shortcut'], stride) if 'conv_shortcut' in p else x
      x = relu(out + x)
    else:
      out = conv(relu(conv(relu(x), p['conv0'])), p['conv1'], stride)
      out = conv(relu(out), p['conv2']) * own['skip_gain']
      x = (conv(relu(x), p['conv_shortcut'], stride) if 'conv_shortcut' in p else x) + out
  pool = jnp.mean(x if is_fixup else relu(x), axis=(1, 2))
  bias = params[f'{root}/classifier_bias']['bias'] if is_fixup else 0
  linear = params[f'{root}/linear']
  return pool, (pool + bias) @ linear['w'] + linear['b']


@BOTH
def test_the_function_is_that_of_the_papers_and_an_example_is_alone(spec, drawn, apply, jit):
  params = drawn(spec)
  out = apply(spec)(params, IMAGES)
  pool, logits = jit(lambda params, x: by_formula(params, x, spec))(params, IMAGES)
  np.testing.assert_allclose(out['pool'], pool, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(out['logits'], logits, rtol=1e-4, atol=1e-4)
  others = apply(spec)(params, IMAGES.at[1:].add(1))['logits']
  np.testing.assert_allclose(others[0], out['logits'][0], rtol=1e-5, atol=1e-5)
  assert jnp.max(jnp.abs(others[1] - out['logits'][1])) > 1e-3
  assert not spec.MIXES_EXAMPLES
  assert not any(module.startswith('state/') for module in zoo.parameter_shapes(spec, 5))


@BOTH
def test_every_parameter_has_a_group_and_a_gradient(spec, drawn, jit):
  params = drawn(spec)
  groups = optim.assign(params)
  assert groups[f'{spec.family}/~/linear']['w'] == 'classifier'
  for name in ('scale', 'skip_gain'):
    for entries in (e for e in groups.values() if name in e):
      assert entries[name] == 'gains_and_biases'

  def loss(params):
    logits = of(spec).apply(params, jax.random.key(0), IMAGES, True)['logits']
    return jnp.sum(jnp.sin(logits + jnp.arange(5)))

  assert all(jnp.any(g) for g in jax.tree.leaves(jit(jax.grad(loss))(params)))


@BOTH
def test_signal_plots_see_the_branches(spec, fresh):
  def network(images):
    return nfnets.create_model(spec, 5)(images, is_training=False)

  opened = initialization.open_branches(fresh(spec), jax.random.key(3))
  blocks = measure_blocks(network, opened, IMAGES)
  assert [block.changes_shape for block in blocks] == [False, False, True]
  assert all(block.branch_variance > 1e-4 for block in blocks)


@BOTH
def test_folding_changes_nothing_and_onnx_is_refused(spec, drawn, apply):
  params = drawn(spec)
  folded, folded_spec = deploy.fold(params, spec)
  assert folded_spec.folded
  np.testing.assert_array_equal(
    apply(spec)(params, IMAGES)['logits'], apply(folded_spec)(folded, IMAGES)['logits']
  )
  with pytest.raises(ValueError, match='is a baseline without an ONNX graph: export'):
    onnx_networks.add_network(None, None, folded, folded_spec)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'depth': (1,)}, 'a width, a depth and a stride for each stage'),
    ({'width': (3, 16)}, 'A stage 3 wide has no bottleneck with expansion=0.25'),
    ({'family': 'NFNet'}, "is of 'FixUp_ResNet', got family='NFNet'"),
    ({'alpha': 0.2}, "no field 'alpha'"),
  ],
)
def test_a_spec_that_gives_no_network(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    FIXUP.replace(**changes)
