"""timm's networks: sizes and structure. Their logits are tested with their weights' conversion."""

import json

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import backbone, nfnet_light, signal_propagation, zoo
from nfnets.nfnet_light import VARIANTS

# Parameters in millions with 1000 classes, as in timm's published tables of results.
MILLIONS = {
  'dm_nfnet_f0': 71.49,
  'dm_nfnet_f6': 438.36,
  'nfnet_l0': 35.07,
  'eca_nfnet_l0': 24.14,
  'eca_nfnet_l1': 41.41,
  'eca_nfnet_l2': 56.72,
  'nf_resnet50': 25.56,
  'nf_regnet_b1': 10.22,
  'test_nfnet': 0.38,
}


def shapes_of(name, num_classes=1000, **overrides):
  f = hk.transform(lambda x: zoo.create_model(name, num_classes, **overrides)(x, is_training=False))
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  return jax.eval_shape(f.init, jax.random.key(0), images)


def count(shapes):
  return sum(np.prod(a.shape, dtype=int) for p in shapes.values() for a in p.values())


@pytest.mark.parametrize('name', MILLIONS)
def test_parameter_counts(name):
  assert round(count(shapes_of(name)) / 1e6, 2) == MILLIONS[name]


def test_the_published_networks_have_the_tree_of_theirs_but_for_the_root():
  def tree(name, root):
    return {path.removeprefix(root): entries for path, entries in shapes_of(name).items()}

  assert tree('dm_nfnet_f0', 'NFNetLight') == tree('F0', 'NFNet')


@pytest.mark.parametrize('name', nfnets.list_models())
def test_every_spec_survives_json_and_leads_back_to_its_family(name):
  spec = zoo.get_spec(name)
  again = zoo.spec_from_dict(json.loads(json.dumps(spec.to_dict())))
  assert again == spec
  assert hash(again) == hash(spec)


@pytest.mark.parametrize('name', ['F0', 'NF-ResNet-50', 'NF-RegNet-B1', 'nf_ecaresnet26'])
def test_a_spec_alone_gives_the_tree_of_the_name(name):
  spec = nfnets.ModelSpec.from_dict(json.loads(json.dumps(zoo.get_spec(name).to_dict())))
  assert shapes_of(spec, 10) == shapes_of(name, 10)


@pytest.mark.parametrize(
  ('name', 'meant'),
  [
    ('NFResNet50', "'NF-ResNet-50' (as published) or 'nf_resnet50' (timm's)"),
    ('nfregnet-b1', "'NF-RegNet-B1' (as published) or 'nf_regnet_b1' (timm's)"),
    ('nfnetf6', "'F6' (as published) or 'dm_nfnet_f6' (timm's) or 'nfnet_f6' (timm's)"),
    ('eca-nfnet-l1', 'did you mean eca_nfnet_l1?'),
    ('NF-RegNetB7', 'did you mean NF-RegNet-B7?'),
  ],
)
def test_near_and_ambiguous_names_are_answered(name, meant):
  with pytest.raises(ValueError, match='Unknown model') as error:
    nfnets.create_model(name)
  assert meant in str(error.value)


@pytest.mark.parametrize(
  ('value', 'rounded'), [(36, 40), (78, 80), (156, 160), (27, 32), (2, 8), (11.9, 16), (12, 16)]
)
def test_widths_are_rounded_to_eights_and_not_by_more_than_a_tenth_down(value, rounded):
  assert nfnet_light.CONVENTIONS.round_channels(value) == rounded


def test_squeeze_excite_hidden_widths_are_rounded_without_that_limit():
  spec = VARIANTS['nf_seresnet50']
  assert spec.attention_hidden(190) == 8  # 11.875
  assert spec.attention_hidden(192) == 16  # 12
  published = zoo.get_spec('NF-ResNet-50').replace(se_ratio=1 / 16)
  assert published.attention_hidden(190) == 11


def test_stochastic_depth_of_the_last_block():
  light = VARIANTS['test_nfnet'].replace(stochdepth_rate=0.3)
  rates = [plan.stochdepth_rate for plan in backbone.plan_blocks(light)]
  np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
  published = light.replace(conventions=nfnet_light.Conventions())
  rates = [plan.stochdepth_rate for plan in backbone.plan_blocks(published)]
  np.testing.assert_allclose(rates, [0, 0.075, 0.15, 0.225])


def test_blocks_start_as_the_identity_without_a_skip_gain():
  def forward(images):
    return nfnets.NFNetLight(5, spec)(images, is_training=False)

  spec = VARIANTS['test_nfnet'].replace(depth=(3,), width=(32,), stride=2, se_ratio=0)
  images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
  key = jax.random.key(1, impl='rbg')  # compiles faster
  params = jax.jit(hk.transform(forward).init)(key, images)
  assert not np.any(params['NFNetLight/~/nf_block_2/~/conv2']['gain'])
  assert np.all(params['NFNetLight/~/nf_block_2/~/conv0']['gain'] == 1)
  assert 'NFNetLight/~/nf_block_2' not in params  # where a skip gain would be
  statistics, _ = signal_propagation.measure(forward, params, images)
  blocks = [statistics[f'NFNetLight/~/nf_block_{i}']['average_variance'] for i in (1, 2)]
  assert blocks[0] == blocks[1] > 0.1


def test_stem_and_stage_sizes_of_odd_images():
  """PyTorch's padding gives the sizes of SAME: halves, rounded up."""

  def forward(images):
    return nfnets.NFNetLight(5, 'nf_resnet26').features(images)

  images = jax.ShapeDtypeStruct((1, 75, 64, 3), jnp.float32)
  f = hk.transform(forward)
  params = jax.eval_shape(f.init, jax.random.key(0), images)
  maps = jax.eval_shape(f.apply, params, None, images)
  assert {name: m.shape[1:3] for name, m in maps.items()} == {
    'stem': (19, 16),
    'stage0': (19, 16),
    'stage1': (10, 8),
    'stage2': (5, 4),
    'stage3': (3, 2),
  }


def test_another_number_of_stages_keeps_what_all_stages_share():
  spec = VARIANTS['nf_regnet_b0'].replace(width=(40, 80), depth=(1, 1))
  assert (spec.stride, spec.expansion, spec.group_width) == ((2, 2), (2.25, 2.25), (8, 8))
  with pytest.raises(ValueError, match=r'stride has 4 entries for 2 stages'):
    VARIANTS['nfnet_l0'].replace(width=(256, 512), depth=(1, 1))


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'se_ratio': 0.25}, "of squeeze-excite, which attention='efficient' replaces"),
    ({'attention': 'eca'}, "attention must be one of squeeze_excite, efficient, got 'eca'"),
    ({'family': 'VGG'}, 'family must be one of NFNet, NF_ResNet, NF_RegNet, NFNetLight'),
    ({'family': 'NF_RegNet'}, "stem of family 'NF_RegNet' is one convolution, got 4"),
    ({'conventions': {'pad': 'same'}}, "Conventions has no field 'pad'"),
    ({'conventions': {'padding': 'valid'}}, 'padding must be one of same, symmetric'),
    ({'conventions': {'epsilon': 0.0}}, 'epsilon must be positive'),
  ],
)
def test_impossible_specs_are_refused_with_a_sentence(changes, sentence):
  fields = VARIANTS['eca_nfnet_l0'].to_dict() | changes
  with pytest.raises(ValueError, match=sentence):
    nfnets.ModelSpec.from_dict(fields)
