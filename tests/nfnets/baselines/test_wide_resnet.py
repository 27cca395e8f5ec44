"""The wide ResNets of private training: sizes, what is one example's own, folding."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import deploy, optim, zoo
from nfnets.baselines import WideResNet, WideResNetSpec

TINY = WideResNetSpec(depth=(1, 2), width=(8, 16), stride=(1, 2), groups=4, stem_width=8)


@pytest.fixture
def transformed(jit):
  """Spec -> compiled (init, apply) of (images, is_training)."""

  def make(spec, **arguments):
    f = hk.transform(lambda x, is_training: WideResNet(5, spec, **arguments)(x, is_training))
    return jit(f.init, static_argnums=2), jit(f.apply, static_argnums=3)

  return make


def by_hand(depth, k):
  """A standardised k x k convolution has k k i o weights, o gains, o biases; a norm 2 c."""

  def conv(kernel, i, o):
    return kernel * kernel * i * o + 2 * o

  total, i = conv(3, 3, 16), 16
  for o in (16 * k, 32 * k, 64 * k):
    shortcut = 2 * i + conv(1, i, o)
    first = 2 * i + conv(3, i, o) + 2 * o + conv(3, o, o)
    other = 2 * (2 * o + conv(3, o, o))
    total += shortcut + first + ((depth - 4) // 6 - 1) * other
    i = o
  return total + 2 * i + i * 10 + 10


@pytest.mark.parametrize(
  ('name', 'parameters'),
  # WRN-16-4: 464 + 121,920 + 526,592 + 2,101,760 + 512 + 2,570.
  [('16-4', 2_753_818), ('40-4', 8_961_306), ('28-10', 36_500_378)],
)
def test_parameter_counts(name, parameters):
  shapes = zoo.parameter_shapes(f'WRN-{name}', num_classes=10)
  count = sum(np.prod(x.shape, dtype=int) for x in jax.tree.leaves(shapes))
  assert count == by_hand(*map(int, name.split('-'))) == parameters
  assert not any(module.startswith('state/') for module in shapes)


def test_each_stage_but_the_first_halves_the_picture():
  f = hk.transform(lambda x: WideResNet(5, TINY).features(x))
  images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
  maps = jax.eval_shape(lambda x: f.apply(f.init(jax.random.key(1), x), None, x), images)
  assert {name: x.shape for name, x in maps.items()} == {
    'stem': (2, 16, 16, 8),
    'stage0': (2, 16, 16, 8),
    'stage1': (2, 8, 8, 16),
  }


def test_the_outputs_of_an_example_do_not_depend_on_the_others(transformed):
  init, apply = transformed(TINY)
  images = jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
  params = init(jax.random.key(1), images, True)
  together = apply(params, None, images, True)['logits']
  changed = apply(params, None, images.at[1:].add(images[0]), True)['logits']
  np.testing.assert_allclose(together[0], changed[0], rtol=1e-5, atol=1e-6)
  assert np.abs(together[1] - changed[1]).max() > 1e-3
  assert not WideResNetSpec.MIXES_EXAMPLES
  assert zoo.get_spec('BN-ResNet-50').MIXES_EXAMPLES


def test_every_parameter_has_a_group_and_a_gradient(jit):
  f = hk.transform(lambda x: WideResNet(5, TINY)(x, is_training=True)['logits'])
  images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
  params = jit(f.init)(jax.random.key(1), images)
  assert optim.assign(params)['WideResNet/~/linear']['w'] == 'classifier'
  gradient = jit(jax.grad(lambda p: jnp.sum(jnp.sin(f.apply(p, None, images)))))(params)
  for module, entries in gradient.items():
    for name, value in entries.items():
      assert jnp.any(value), f'{module}/{name}'


def test_folding_leaves_the_outputs(transformed):
  init, apply = transformed(TINY)
  images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
  params = jax.tree.map(lambda x: x + 0.1, init(jax.random.key(1), images, False))
  folded, spec = deploy.fold(params, TINY)
  assert not any('gain' in entries for entries in folded.values())
  _, apply_folded = transformed(spec)
  got = apply_folded(folded, None, images, False)['logits']
  want = apply(params, None, images, False)['logits']
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  found = [
    nfnets.Classifier(params, TINY, size=8, runtime=runtime).features(list(pixels), ['logits'])
    for runtime in ('jax', 'onnx')
  ]
  np.testing.assert_allclose(*(out['logits'] for out in found), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'depth': (1,)}, 'a width, a depth and a stride for each stage'),
    ({'groups': 3}, '8 channels cannot be normalised in groups=3 groups'),
    ({'family': 'BN_ResNet'}, "is of 'WideResNet', got family='BN_ResNet'"),
  ],
)
def test_a_spec_that_gives_no_network(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    TINY.replace(**changes)
