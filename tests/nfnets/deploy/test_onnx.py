"""ONNX files against the networks they were written from, run by ONNX Runtime."""

import json

import haiku as hk
import jax
import numpy as np
import pytest

import nfnets
from nfnets import activations, baselines, deploy, initialization, preprocessing, sides, zoo
from nfnets.audio import SoundPreprocessing
from nfnets.baselines.efficientnet import EfficientNetSpec
from nfnets.baselines.resnet import ResNetSpec
from nfnets.preprocessing import Preprocessing
from nfnets.spec import FastTrunk

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

_SMALL = {'width': (16, 24), 'depth': (1, 2), 'stride': (1, 2), 'group_width': 4}
SPECS = {
  'NFNet': nfnets.ModelSpec(**_SMALL),
  'relu, one 3x3, no attention': nfnets.ModelSpec(
    **_SMALL, activation='relu', two_convs=False, se_ratio=0.0
  ),
  'NF-ResNet': zoo.get_spec('NF-ResNet-50').replace(
    width=(32, 64), depth=(1, 2), stride=(1, 2), stem=((7, 2, 16),), se_ratio=0.25
  ),
  'NF-RegNet': zoo.get_spec('NF-RegNet-B0').replace(
    width=(16, 32), depth=(2, 1), stride=(2, 2), stem=((3, 2, 12),)
  ),
  'timm, ECA': zoo.get_spec('eca_nfnet_l0').replace(
    width=(64, 64), depth=(1, 2), stride=(1, 2), group_width=16, stem=((3, 2, 8), (3, 2, 16))
  ),
  'timm, no skip gain': zoo.get_spec('nf_resnet50').replace(
    width=(32, 64), depth=(1, 2), stride=(1, 2), stem=((7, 2, 16),)
  ),
  'BN-ResNet': ResNetSpec(width=(16, 32), depth=(1, 2), stride=(1, 2), stem=((7, 2, 8),)),
  'BN-SE-ResNeXt-D': zoo.get_spec('BN-SE-ResNeXt-D-50').replace(
    width=(32, 64), depth=(1, 2), stride=(1, 2), group_width=8, stem=((3, 2, 8), (3, 1, 16))
  ),
  'BN-F0': zoo.get_spec('BN-F0').replace(
    width=(32, 64),
    depth=(1, 2),
    stride=(1, 2),
    group_width=8,
    head_channels=40,
    stem=((3, 2, 8), (3, 2, 16)),
  ),
  'two trunks': nfnets.ModelSpec(
    **_SMALL | {'stride': (1, (1, 2)), 'depth': 1},
    family='slow_fast_nf_net',
    kernel=(1, (3, 1)),
    second_kernel=((1, 3), (1, 3)),
    in_channels=1,
    stem=(((1, 3), 2, 8), ((3, 3), (1, 2), 16)),
    fast=FastTrunk(
      width=(8, 16),
      stem=((3, 2, 4), ((3, 3), (1, 2), 8)),
      group_width=4,
      kernel=((3, 1), (3, 1)),
      second_kernel=((1, 3), (1, 3)),
      lateral_width=(12, 16),
    ),
  ),
  'EfficientNet': EfficientNetSpec(stages=((1, 3, 1, 16, 1), (6, 5, 2, 24, 2))),
}


def weights_of(spec):
  """Parameters and state at random, no branch of which is off."""
  images = jax.ShapeDtypeStruct((1, *zoo.input_shape(spec, 32)), np.float32)
  params, state = initialization.initialize(
    lambda x: nfnets.create_model(spec, 7)(x, is_training=False), jax.random.key(0), images
  )
  rng = np.random.default_rng(1)

  def moved(x):
    return np.asarray(x) + rng.uniform(0.02, 0.2, np.shape(x)).astype(np.float32)

  params = jax.tree.map(moved, params)
  state = jax.tree.map(lambda x: np.abs(moved(x)) if np.ndim(x) else np.asarray(x), state)
  return baselines.join_state(params, state)


def run(path, pixels):
  session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
  return session.run(None, {'images': pixels})[0]


def pixels(size=33, batch=3, channels=3):  # an odd side: paddings differ between the two sides
  shape = (batch, *sides.pair(size), channels)
  return np.random.default_rng(2).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize('name', SPECS)
def test_every_family_gives_its_own_logits(tmp_path, name):
  spec, path = SPECS[name], tmp_path / 'net.onnx'
  tree = weights_of(spec)
  params, state = baselines.split_state(tree)
  network = hk.transform_with_state(lambda x: nfnets.create_model(spec, 7)(x, is_training=False))
  images = pixels() if zoo.is_for_pictures(spec) else pixels((35, 18), channels=1)
  want = np.asarray(jax.jit(network.apply)(params, state, None, images)[0]['logits'])
  scale = np.abs(want).max()
  assert np.isfinite(scale)
  for size in (images.shape[1:3], 0):  # paddings as numbers, and worked out by the runtime
    size = sides.plain(size)
    deploy.export_onnx(path, tree, spec, size=size)
    onnx.checker.check_model(str(path), full_check=True)
    np.testing.assert_allclose(run(path, images), want, rtol=0, atol=1e-5 * scale)
  kinds = [node.op_type for node in onnx.load(path).graph.node]
  assert kinds.count('Transpose') == 1  # of the images, and nothing else is rearranged
  assert not {'Identity', 'Pad', 'Slice', 'Einsum', 'MatMul'} & set(kinds)
  # A stage's lateral map, and the two trunks' features.
  assert kinds.count('Concat') == (3 if name == 'two trunks' else 0)


def test_networks_for_sounds_have_no_pixels_to_normalise(tmp_path):
  spec = SPECS['two trunks'].replace(test_size=(20, 16))
  tree, path = weights_of(spec), tmp_path / 'net.onnx'
  for wrong in ({'normalize': True}, {'preprocessing': Preprocessing(20)}):
    with pytest.raises(ValueError, match='and no pixels to normalise'):
      deploy.export_onnx(path, tree, spec, **wrong)
  deploy.export_onnx(path, tree, spec)
  shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
  assert [one.dim_value for one in shape] == [0, 20, 16, 1]
  said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
  assert preprocessing.read_metadata(said) == SoundPreprocessing(20, 16)


@pytest.mark.parametrize('activation', sorted(set(activations.ACTIVATIONS) - {'glu'}))
def test_activations(tmp_path, activation):
  from nfnets.deploy.onnx_graph import OPSET, Graph, Map

  graph = Graph()
  out = graph.activation(Map('x', 4, 1), activation)
  x = np.linspace(-8, 8, 36, dtype=np.float32).reshape(9, 4, 1, 1)
  if activation == 'identity':
    assert out.name == 'x'
    return
  constants = [onnx.numpy_helper.from_array(v, n) for n, v in graph.constants.items()]
  info = onnx.helper.make_tensor_value_info
  made = onnx.helper.make_graph(
    graph.nodes, 'g', [info('x', 1, [9, 4, 1, 1])], [info(out.name, 1, None)], constants
  )
  opset = [onnx.helper.make_opsetid('', OPSET)]
  model = onnx.helper.make_model(made, opset_imports=opset, ir_version=9)
  got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {'x': x})[0]
  want = activations.get(activation).function(x[:, :, 0, 0])
  np.testing.assert_allclose(got[:, :, 0, 0], want, rtol=1e-5, atol=2e-6)


def test_pixels_in_probabilities_out(tmp_path):
  spec, path = SPECS['NFNet'], tmp_path / 'net.onnx'
  tree = weights_of(spec)
  options = {'size': 32, 'normalize': True, 'softmax': True, 'layout': 'NCHW', 'batch_size': 2}
  prepared = Preprocessing(32, 'center', 0.9, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  names = {'class_names': list('abcdefg')}
  deploy.export_onnx(path, tree, spec, **options, preprocessing=prepared, metadata=names)
  picture = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
  normal = (picture / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.3, 0.4])
  want = jax.nn.softmax(deploy.predictor(tree, spec)(normal.astype(np.float32)))
  got = run(path, np.transpose(picture, (0, 3, 1, 2)))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  said = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
  assert json.loads(said['class_names']) == list('abcdefg')
  assert zoo.spec_from_dict(json.loads(said['spec'])).width == spec.width
  assert said['layout'] == 'NCHW'
  assert Preprocessing.from_metadata(said) == prepared


@pytest.mark.parametrize(('dtype', 'error'), [('float16', 5e-3), ('bfloat16', 5e-2)])
def test_weights_of_half_the_bytes(tmp_path, dtype, error):
  spec = SPECS['NFNet']
  tree = weights_of(spec)
  for name, kind in (('whole', 'float32'), ('half', dtype)):
    deploy.export_onnx(tmp_path / name, tree, spec, size=32, weights_dtype=kind)
  sizes = [(tmp_path / name).stat().st_size for name in ('whole', 'half')]
  assert sizes[1] < 0.7 * sizes[0]
  whole, half = (run(tmp_path / name, pixels(32)) for name in ('whole', 'half'))
  np.testing.assert_allclose(half, whole, rtol=0, atol=error * np.abs(whole).max())


def test_large_weights_lie_beside_the_file(tmp_path, monkeypatch):
  from nfnets.deploy import onnx_file

  spec = SPECS['NFNet']
  tree = weights_of(spec)
  deploy.export_onnx(tmp_path / 'one.onnx', tree, spec, size=32)
  monkeypatch.setattr(onnx_file, '_MOST_BYTES', 1000)
  deploy.export_onnx(tmp_path / 'two.onnx', tree, spec, size=32)
  assert (tmp_path / 'two.onnx.data').stat().st_size > (tmp_path / 'two.onnx').stat().st_size
  outputs = [run(tmp_path / name, pixels(32)) for name in ('one.onnx', 'two.onnx')]
  np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize('choice', [{'layout': 'HWC'}, {'weights_dtype': 'int4'}])
def test_unknown_choices_are_refused_before_anything_is_written(tmp_path, choice):
  ((what, value),) = choice.items()
  spec = SPECS['NFNet']
  with pytest.raises(ValueError, match=f"{what} must be one of .*, got '{value}'"):
    deploy.export_onnx(tmp_path / 'x.onnx', weights_of(spec), spec, **choice)
  assert not list(tmp_path.iterdir())
