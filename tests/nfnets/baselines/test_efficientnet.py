"""EfficientNet: the published sizes, the scaling, the shapes inside a block."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import optim, zoo
from nfnets.baselines import EfficientNet, EfficientNetSpec, efficientnet

# With 1000 classes, and the side of its images (arXiv 1905.11946).
PUBLISHED = {
  'B0': (5_288_548, 224),
  'B1': (7_794_184, 240),
  'B2': (9_109_994, 260),
  'B3': (12_233_232, 300),
  'B4': (19_341_616, 380),
  'B5': (30_389_784, 456),
  'B6': (43_040_704, 528),
  'B7': (66_347_960, 600),
}
TINY = EfficientNetSpec(
  stages=((1, 3, 1, 8, 1), (4, 5, 2, 16, 2)), stem_channels=8, head_channels=32
)


@pytest.mark.parametrize('variant', PUBLISHED)
def test_published_parameter_counts(variant):
  name = f'EfficientNet-{variant}'
  f = hk.transform_with_state(lambda x: zoo.create_model(name)(x, is_training=False))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  params, _ = jax.eval_shape(f.init, jax.random.key(0), images)
  count = sum(np.prod(a.shape, dtype=int) for a in jax.tree.leaves(params))
  spec = zoo.get_spec(name)
  assert (count, spec.train_size) == PUBLISHED[variant]
  assert spec.test_size == spec.train_size


def test_every_variant_has_a_published_size():
  assert set(efficientnet.VARIANTS) == set(PUBLISHED)


@pytest.mark.parametrize(
  ('multiple', 'channels', 'scaled'),
  [(1.0, 24, 24), (1.1, 16, 16), (1.1, 40, 48), (1.4, 32, 48), (1.6, 24, 40), (2.0, 320, 640)],
)
def test_channels_are_scaled_to_eights(multiple, channels, scaled):
  assert TINY.replace(width_multiple=multiple).channels(channels) == scaled


def test_every_parameter_has_a_group_and_a_gradient(jit):
  f = hk.transform_with_state(lambda x: EfficientNet(10, TINY)(x, is_training=True))
  images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
  params, state = jit(f.init)(jax.random.key(1), images)
  assert optim.assign(params)['EfficientNet/~/linear']['w'] == 'classifier'

  @jit
  def gradients(params):
    def loss(params):
      logits = f.apply(params, state, jax.random.key(2), images)[0]['logits']
      return jnp.sum(jnp.sin(logits + jnp.arange(10)))

    return jax.grad(loss)(params)

  for module, entries in gradients(params).items():
    for name, gradient in entries.items():
      assert jnp.any(gradient), f'{module}/{name}'


def test_squeeze_excite_and_depthwise_shapes_of_a_block():
  f = hk.transform_with_state(lambda x: EfficientNet(10, TINY)(x, is_training=False))
  params, _ = jax.eval_shape(f.init, jax.random.key(0), jnp.ones((1, 16, 16, 3)))
  block = 'EfficientNet/~/mb_conv_1/~'  # the first of stage 1: from 8 channels, 32 inside
  assert params[f'{block}/expand']['w'].shape == (1, 1, 8, 32)
  assert params[f'{block}/depthwise']['w'].shape == (5, 5, 1, 32)
  assert params[f'{block}/squeeze_excite/~/linear']['w'].shape == (32, 2)  # a quarter of 8
  assert params[f'{block}/project']['w'].shape == (1, 1, 32, 16)
  assert 'EfficientNet/~/mb_conv/~/expand' not in params  # expansion 1


def test_outputs_and_features(jit):
  f = hk.transform_with_state(lambda x, training: EfficientNet(10, TINY)(x, training))
  g = hk.transform_with_state(lambda x: EfficientNet(10, TINY).features(x, is_training=False))
  images = jnp.ones((2, 16, 16, 3), jnp.bfloat16)
  params, state = jit(f.init, static_argnums=2)(jax.random.key(0), images, True)
  apply = jit(f.apply, static_argnums=4)
  out, new_state = apply(params, state, jax.random.key(1), images, True)
  assert out['logits'].shape == (2, 10)
  assert out['pool'].shape == (2, 32)
  assert out['logits'].dtype == out['pool'].dtype == jnp.bfloat16
  assert new_state['EfficientNet/~/stem_norm/~/batch_norm/~/mean_ema']['counter'] == 1
  maps, _ = jit(g.apply)(params, new_state, None, images)
  assert {name: m.shape for name, m in maps.items()} == {
    'stem': (2, 8, 8, 8),
    'stage0': (2, 8, 8, 8),
    'stage1': (2, 4, 4, 16),
  }


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'stages': ((1, 3, 1, 8),)}, 'five positive numbers'),
    ({'stages': ()}, 'needs stages'),
    ({'width_multiple': 0.0}, 'positive multiples'),
  ],
)
def test_a_spec_that_gives_no_network(changes, sentence):
  with pytest.raises(ValueError, match=sentence):
    TINY.replace(**changes)
