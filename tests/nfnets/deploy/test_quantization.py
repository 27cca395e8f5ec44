"""Files in int8 against those in float32 that they were made of, run by ONNX Runtime."""

import jax
import numpy as np
import pytest
from PIL import Image

import nfnets
from nfnets import deploy, inference, zoo

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')

SIZE = 32
SPEC = nfnets.ModelSpec(width=(16, 24), depth=(1, 2), stride=(1, 2), group_width=4, test_size=SIZE)
ECA = zoo.get_spec('eca_nfnet_l0').replace(
  width=(64,), depth=(1,), stride=(2,), group_width=16, stem=((3, 2, 8),), test_size=SIZE
)
SAID = {'class_names': ['a', 'b', 'c', 'd', 'e'], 'eval_mode': 'resize'}


def params_of(spec):
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda x: rng.uniform(-0.6, 0.6, x.shape).astype(np.float32), zoo.parameter_shapes(spec, 5)
  )


def export(path, spec=SPEC, **options):
  deploy.export_onnx(path, params_of(spec), spec, metadata=SAID, **options)
  return path


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """The file in float32."""
  return export(tmp_path_factory.mktemp('onnx') / 'net.onnx')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A folder with eight pictures, one of them deeper, a broken one and a text."""
  place = tmp_path_factory.mktemp('pictures')
  (place / 'more').mkdir()
  rng = np.random.default_rng(0)
  for i in range(8):
    pixels = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)  # the network sees smooth ones
    Image.fromarray(pixels).save(place / ('more' if i == 3 else '.') / f'{i}.png')
  (place / 'broken.jpg').write_bytes(b'not a picture')
  (place / 'notes.txt').write_text('hello')
  return place


def prepare(path):
  return inference.preprocess(path, SIZE, 'resize')


def run(path, pictures):
  session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
  return np.concatenate([session.run(None, {'images': x[None]})[0] for x in pictures])


def said(path):
  return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def constants_in_int8(path):
  """Name of a layer's weights -> its values."""
  values = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}
  return {
    name.removesuffix('_quantized'): value
    for name, value in values.items()
    if value.dtype == np.int8 and value.ndim == 4
  }


def test_a_folder(network, folder, tmp_path):
  out = tmp_path / 'int8.onnx'
  done = deploy.quantize_onnx(network, out, folder, prepare=prepare)
  pictures = [prepare(path) for path in sorted(folder.rglob('*.png'))]
  float32, int8 = run(network, pictures), run(out, pictures)
  scale = np.abs(float32).max()
  assert 1e-4 * scale < np.abs(int8 - float32).max() < 0.1 * scale
  assert done.pictures == len(pictures) == 8
  assert done.agreement == np.mean(float32.argmax(1) == int8.argmax(1))
  assert 'broken.jpg' in done.skipped
  assert 'notes.txt' in done.skipped
  assert (done.float_bytes, done.int8_bytes) == (network.stat().st_size, out.stat().st_size)
  assert done.speed_ratio > 0
  assert '8 pictures get the same class as in float32' in str(done)
  assert said(out) == said(network)
  onnx.checker.check_model(str(out), full_check=True)
  assert {path.name for path in tmp_path.iterdir()} == {'int8.onnx'}


@pytest.mark.parametrize('spec', [SPEC, ECA], ids=['squeeze-excite', 'efficient attention'])
def test_which_layers_stay_in_float32(spec, tmp_path):
  source = export(tmp_path / 'net.onnx', spec)
  out = tmp_path / 'int8.onnx'
  pictures = np.random.default_rng(2).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
  deploy.quantize_onnx(source, out, pictures)
  convs = [node.input[1] for node in onnx.load(source).graph.node if node.op_type == 'Conv']
  kept = {name for name in convs if 'channel_attention' in name}
  assert len(kept) == (spec is ECA)
  found = constants_in_int8(out)
  assert set(found) == set(convs[1:]) - kept
  peaks = {name: np.abs(value).max(axis=(1, 2, 3)) for name, value in found.items()}
  # Every output channel has a scale of its own, and one bit is left.
  assert all(set(peak) <= {63, 64} for peak in peaks.values())
  deploy.quantize_onnx(source, out, pictures, weight_bits=8)
  assert all(value.min() < -100 or value.max() > 100 for value in constants_in_int8(out).values())


def test_pixels_of_another_layout_in_batches(tmp_path):
  options = {'normalize': True, 'layout': 'NCHW', 'batch_size': 2, 'softmax': True, 'size': 24}
  source = export(tmp_path / 'net.onnx', **options)
  pictures = np.random.default_rng(2).integers(0, 256, (6, 24, 24, 3)).astype(np.uint8)
  done = deploy.quantize_onnx(source, tmp_path / 'int8.onnx', pictures, max_pictures=3)
  assert (done.pictures, done.skipped) == (3, '')
  batch = np.transpose(pictures[:2], (0, 3, 1, 2))
  outputs = [
    onnxruntime.InferenceSession(str(tmp_path / name)).run(None, {'images': batch})[0]
    for name in ('net.onnx', 'int8.onnx')
  ]
  np.testing.assert_allclose(*outputs, atol=0.05)


def test_what_cannot_be_used_is_a_sentence(network, folder, tmp_path):
  out = tmp_path / 'int8.onnx'

  def refuse(sentence, source=network, pictures=folder, error=ValueError, **options):
    with pytest.raises(error, match=sentence):
      deploy.quantize_onnx(source, options.pop('out', out), pictures, **options)

  fitting = np.zeros((1, SIZE, SIZE, 3), np.float32)
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'bad').mkdir()
  (tmp_path / 'bad' / 'a.png').write_bytes(b'?')
  (tmp_path / 'other.onnx').write_bytes(b'\x00\xff' * 40)
  foreign = onnx.load(network)
  del foreign.metadata_props[:]
  onnx.save(foreign, tmp_path / 'foreign.onnx')
  export(tmp_path / 'half.onnx', weights_dtype='bfloat16')
  before = set(tmp_path.iterdir())
  refuse('would replace the file in float32', out=network)
  refuse('a folder needs prepare')
  refuse('is not a folder of pictures', pictures='missing', prepare=prepare, error=OSError)
  refuse('no pictures to calibrate with in', pictures=tmp_path / 'empty', prepare=prepare)
  refuse('no pictures to calibrate with in the list', pictures=[])
  refuse(r'no picture in .* can be used: .*a\.png', pictures=tmp_path / 'bad', prepare=prepare)
  refuse('is not an ONNX file', source=tmp_path / 'other.onnx', pictures=fitting)
  refuse('was not written by', source=tmp_path / 'foreign.onnx', pictures=fitting)
  refuse('weights of 16 bits', source=tmp_path / 'half.onnx', pictures=fitting)
  refuse(
    r'takes pictures \[32, 32, 3\] in float32, got \[24, 24, 3\]', pictures=[fitting[0, 8:, 8:]]
  )
  refuse(r'in float32, got \[\] in <U5', pictures=['a.png'])
  refuse('in float32, got .* in uint8', pictures=[fitting[0].astype(np.uint8)])
  refuse('weight_bits must be 7 or 8, got 4', pictures=fitting, weight_bits=4)
  refuse('max_pictures must be at least 1', pictures=fitting, max_pictures=0)
  assert set(tmp_path.iterdir()) == before
  deploy.quantize_onnx(network, out, fitting)
  refuse('is already in int8', source=out, pictures=fitting, out=tmp_path / 'again.onnx')
