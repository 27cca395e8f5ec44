"""Which images ONNX Runtime is given together."""

import functools

import numpy as np
import pytest

from nfnets import onnx_session

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


@pytest.fixture(scope='module')
def network(tmp_path_factory):
  """Its 'together' is, for each image, the sum of all pixels of the call; 'own' is of the image."""
  float32 = onnx.TensorProto.FLOAT
  nodes = [
    onnx.helper.make_node('ReduceSum', ['images', 'axes'], ['own'], keepdims=0),
    onnx.helper.make_node('ReduceSum', ['images'], ['all'], keepdims=0),
    onnx.helper.make_node('Sub', ['own', 'own'], ['nothing']),
    onnx.helper.make_node('Add', ['nothing', 'all'], ['together']),
  ]
  value = onnx.helper.make_tensor_value_info
  graph = onnx.helper.make_graph(
    nodes,
    'sums',
    [value('images', float32, ['N', 1, 1, 3])],
    [value('own', float32, ['N']), value('together', float32, ['N'])],
    [onnx.numpy_helper.from_array(np.array([1, 2, 3]), 'axes')],
  )
  opsets = [onnx.helper.make_opsetid('', 17)]
  path = tmp_path_factory.mktemp('network') / 'sums.onnx'
  onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
  return path


def session(network, threads=0):
  return onnx_session.OnnxSession(functools.partial(onnx_session.load, network), threads)


@pytest.mark.parametrize(
  ('threads', 'together'),
  [
    (1, [9, 9, 36, 36, 48]),
    (2, [9, 9, 36, 36, 48]),
    (3, [9, 9, 36, 36, 48]),
    (4, [9, 9, 36, 36, 48]),
    (5, [3, 6, 12, 24, 48]),
    (8, [93] * 5),  # each layer is shared out
  ],
)
def test_threads_take_images_or_share_layers(network, threads, together):
  images = np.array([1, 2, 4, 8, 16], np.float32).reshape(5, 1, 1, 1).repeat(3, axis=3)
  own, summed = session(network, threads)(images, ['own', 'together'])
  np.testing.assert_array_equal(own, [3, 6, 12, 24, 48])
  np.testing.assert_array_equal(summed, together)


def test_no_images_give_no_rows(network):
  outputs = session(network, 2)(np.zeros((0, 1, 1, 3), np.float32), ['own'])
  assert outputs[0].shape == (0,)
