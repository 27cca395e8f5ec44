"""Weights of timm's networks: the logits that timm gives with them, and the way back."""

import pathlib

import haiku as hk
import jax
import numpy as np
import pytest
import safetensors.numpy

from nfnets import nfnet_light, zoo
from nfnets.execution import standardize
from nfnets.nfnet_light import VARIANTS
from nfnets.weights import from_timm, to_timm

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden'

LIGHT = {'depth': (1, 1, 2, 1), 'width': (64, 96, 128, 128), 'group_width': 16}
RESNET = {'depth': (1, 2, 1, 1), 'width': (32, 64, 96, 128)}
DEEPMIND = {'depth': (1, 1, 2, 1), 'width': (256, 96, 128, 128), 'group_width': 16}

# The networks of the golden files.
CASES = {
  'dm_tiny': VARIANTS['dm_nfnet_f0'].replace(**DEEPMIND),
  'test_nfnet': VARIANTS['test_nfnet'],
  'eca_tiny': VARIANTS['eca_nfnet_l0'].replace(**LIGHT),
  'nfres_tiny': VARIANTS['nf_resnet50'].replace(**RESNET),
  'seres_tiny': VARIANTS['nf_seresnet50'].replace(**RESNET),
  'nfreg_tiny': VARIANTS['nf_regnet_b0'].replace(
    depth=(1, 2, 1, 1), **nfnet_light.regnet_widths((24, 48, 64, 88))
  ),
}

# The same weights in networks that keep gamma in the activations, or have the published epsilon.
MOVED = {
  'dm_tiny': zoo.get_spec('F0').replace(activation='gelu_exact', **DEEPMIND),
  **{
    case: CASES[case].replace(conventions=nfnet_light.Conventions(padding='symmetric'))
    for case in ('eca_tiny', 'nfres_tiny')
  },
}


def read(case):
  """The golden state dict; dm_tiny is in two files, for its size."""
  state = {}
  for path in sorted(GOLDEN.glob(f'timm_{case}*.safetensors')):
    state |= safetensors.numpy.load_file(path)
  return state


def logits(spec, params, images):
  num_classes = params[f'{spec.family}/~/linear']['b'].shape[0]
  f = hk.transform(lambda x: zoo.create_model(spec, num_classes)(x, is_training=False)['logits'])
  return np.asarray(jax.jit(f.apply)(params, None, images))


def assert_same(state, expected):
  assert set(state) == set(expected)
  for key, want in expected.items():
    assert state[key].dtype == want.dtype
    assert state[key].shape == want.shape  # assert_allclose would broadcast
    np.testing.assert_allclose(state[key], want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize(
  ('case', 'specs'),
  [*((case, CASES) for case in CASES), *((case, MOVED) for case in MOVED)],
  ids=[*CASES, *(f'{case}_moved' for case in MOVED)],
)
def test_logits_equal_timms_and_the_way_back_is_the_identity(case, specs, golden):
  state, spec = read(case), specs[case]
  params = from_timm(state, spec)
  want = golden('timm_logits')[f'{case}/logits']
  got = logits(spec, params, golden('timm_logits')[f'{case}/images_nhwc'])
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
  back = to_timm(params, spec, conventions=CASES[case].conventions)
  assert_same(back, state)


def test_the_gains_absorb_the_epsilon_where_it_matters():
  # Golden weights have variance 1/4, where 1e-5 hardly shows; here it is half the variance.
  state = {k: v * 0.009 if k.endswith('conv2.weight') else v for k, v in read('dm_tiny').items()}
  as_timm = from_timm(state, CASES['dm_tiny'])['NFNetLight/~/nf_block/~/conv1']
  as_published = from_timm(state, MOVED['dm_tiny'])['NFNet/~/nf_block/~/conv1']
  assert np.all(np.abs(as_published['gain']) < 0.9 * np.abs(as_timm['gain']))
  np.testing.assert_allclose(
    standardize(as_published['w'], as_published['gain']),
    standardize(as_timm['w'], as_timm['gain'], epsilon=1e-5, epsilon_added_to_variance=True),
    rtol=1e-4,
    atol=1e-7,
  )


def test_a_file_is_read_and_its_number_of_classes_found():
  path = GOLDEN / 'timm_nfres_tiny.safetensors'
  params = from_timm(path, CASES['nfres_tiny'])
  assert params['NFNetLight/~/linear']['w'].shape == (128, 11)
  assert_same(to_timm(params, CASES['nfres_tiny']), safetensors.numpy.load_file(path))


# Networks of the published functions with all of their shapes, or all but the skip gains.
def published_resnet(**changes):
  return zoo.get_spec('NF-ResNet-50').replace(**RESNET, stem=((7, 2, 64),), **changes)


def published_light():
  return CASES['test_nfnet'].replace(conventions=nfnet_light.Conventions(channel_multiple=8))


@pytest.mark.parametrize(
  ('case', 'spec', 'sentence'),
  [
    ('nfres_tiny', published_resnet(), "shortcut is a strided_conv.*function differs.*'nf_resnet5"),
    ('nfres_tiny', published_resnet(skip_gain=False), 'shortcut is a strided_conv'),
    ('test_nfnet', published_light(), "padding 'same'.*without skip gains have 'symmetric'"),
    ('dm_tiny', CASES['dm_tiny'].replace(conventions=nfnet_light.CONVENTIONS), 'with skip gains'),
  ],
)
def test_shapes_that_fit_a_function_that_differs_are_refused(case, spec, sentence):
  with pytest.raises(ValueError, match=sentence):
    from_timm(read(case), spec)


def test_a_network_that_timm_cannot_build_is_refused():
  spec = published_resnet(skip_gain=False)
  params = from_timm(read('nfres_tiny'), CASES['nfres_tiny'])
  with pytest.raises(ValueError, match='shortcut is a strided_conv'):
    to_timm(params, spec)


def test_stated_conventions_win_over_deduced_ones():
  spec = CASES['eca_tiny'].replace(skip_gain=True)
  blocks = ('0.0', '1.0', '2.0', '2.1', '3.0')
  state = read('eca_tiny') | {f'stages.{b}.skipinit_gain': np.float32(0.5) for b in blocks}
  with pytest.raises(ValueError, match="networks with skip gains have 'same'"):
    from_timm(state, spec)
  params = from_timm(state, spec, conventions=nfnet_light.CONVENTIONS)
  assert_same(to_timm(params, spec, conventions=nfnet_light.CONVENTIONS), state)


def test_what_is_missing_unexpected_or_of_another_shape_is_named_at_once():
  state = read('nfres_tiny')
  del state['stages.1.1.conv2.bias']
  state['stages.9.0.conv1.weight'] = np.zeros((1, 1, 1, 1), np.float32)
  state['stem.conv.gain'] = np.zeros((3, 1, 1, 1), np.float32)
  state['head.fc.weight'] = np.zeros((11, 128, 1, 1), np.float32)
  with pytest.raises(ValueError, match='do not fit the model') as error:
    from_timm(state, CASES['nfres_tiny'])
  for part in (
    r'NFNetLight/~/nf_block_2/~/conv1/bias (16,)',
    r'stages.9.0.conv1/weight (1, 1, 1, 1)',
    r'stem_conv0/gain (64,) in the model, (3,) loaded',
    r'head.fc/weight (11, 128, 1, 1)',
  ):
    assert part in str(error.value)


def test_another_number_of_classes_is_refused():
  with pytest.raises(ValueError, match=r'linear/b \(12,\) in the model, \(11,\) loaded'):
    from_timm(read('nfres_tiny'), CASES['nfres_tiny'], num_classes=12)


def test_files_that_are_none(tmp_path):
  with pytest.raises(FileNotFoundError, match='no weights file'):
    from_timm(tmp_path / 'none.safetensors', 'nf_resnet50')
  path = tmp_path / 'model.pth'
  path.write_bytes(b'PK' + bytes(100))
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    from_timm(path, 'nf_resnet50')
  with pytest.raises(ValueError, match="use 'F0'"):
    from_timm({}, 'nfnet-f0')
