"""A trained network as an ONNX file, written directly from its folded description."""

import importlib.util
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nfnets import installation, weights, zoo
from nfnets.audio import SoundPreprocessing
from nfnets.deploy.folding import Params, fold, is_folded
from nfnets.deploy.onnx_graph import OPSET, Graph, Map
from nfnets.deploy.onnx_networks import add_network
from nfnets.preprocessing import METADATA_KEY, Preprocessing, usual
from nfnets.sides import Sides
from nfnets.weights.atomic import replacing

if TYPE_CHECKING:
  import onnx

LAYOUTS = ('NHWC', 'NCHW')
DTYPES = ('float32', 'float16', 'bfloat16')
_MOST_BYTES = 2**31 - 2**20  # of one protobuf


def export_onnx(
  path: str | os.PathLike,
  params: Params,
  spec: zoo.AnySpec,
  *,
  size: Sides | None = None,
  batch_size: int | None = None,
  layout: str = 'NHWC',
  weights_dtype: str = 'float32',
  normalize: bool = False,
  softmax: bool = False,
  pool: bool = False,
  preprocessing: Preprocessing | SoundPreprocessing | None = None,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes images -> logits as an ONNX file of plain convolutions.

  Args:
    path: the file; it is written whole or not at all. Weights above 2 GB go into `<path>.data`.
    params: as for `fold`, with a classifier; folded or not.
    spec: the network.
    size: height and width of the images in pixels; 0: any; None: that of the preprocessing, or of a
      network for sounds its spec's test size, (frames, mel bands).
    batch_size: number of images per call; None: any.
    layout: of the input 'images': 'NHWC' or 'NCHW'.
    weights_dtype: 'float32'; or 'float16' or 'bfloat16': half the file, computed in float32.
    normalize: whether the input holds pixels 0..255 in uint8, RGB, and the graph subtracts the
      mean and divides by the standard deviation; otherwise they are normalised float32.
    softmax: whether the output holds 'probabilities' instead of 'logits', [N, K] float32.
    pool: whether the pooled features are a second output, 'pool', [N, C] float32.
    preprocessing: how pictures, or sounds, are prepared for the network; the file records it. None:
      DeepMind's for networks of the spec's test size.
    metadata: what else the file records, such as class names: strings, or JSON types.

  Raises:
    ImportError: the package onnx is not installed.
    ValueError: an unknown choice, or the parameters are not those of the spec; a network for sounds
      is to normalise pixels.
  """
  preprocessing = preprocessing or usual(zoo.input_shape(spec))
  is_sound = isinstance(preprocessing, SoundPreprocessing)
  if is_sound == zoo.is_for_pictures(spec) or (is_sound and normalize):
    raise ValueError(
      'this network and this preprocessing do not go together: those of sounds have one channel, '
      'and no pixels to normalise.'
    )
  size = preprocessing.size if size is None else size
  model = make_model(
    params,
    spec,
    size=size,
    batch_size=batch_size,
    layout=layout,
    weights_dtype=weights_dtype,
    normalized=preprocessing if normalize else None,
    softmax=softmax,
    pool=pool,
  )
  said = {
    'layout': layout,
    'normalize': normalize,
    METADATA_KEY: preprocessing.replace(size=size or None).to_json(),
  }
  _set_metadata(model, spec, {**said, **(metadata or {})})
  _write(model, pathlib.Path(path))


def make_model(
  params: Params,
  spec: zoo.AnySpec,
  *,
  size: Sides,
  batch_size: int | None = None,
  layout: str = 'NHWC',
  weights_dtype: str = 'float32',
  normalized: Preprocessing | None = None,
  softmax: bool = False,
  pool: bool = False,
) -> 'onnx.ModelProto':
  """Returns what `export_onnx` writes, without metadata; arguments and errors are the same.

  Args:
    params: as in `export_onnx`.
    spec: as in `export_onnx`.
    size: as in `export_onnx`.
    batch_size: as in `export_onnx`.
    layout: as in `export_onnx`.
    weights_dtype: as in `export_onnx`.
    normalized: whose mean and standard deviation the graph applies; None: it gets normalised
      images.
    softmax: as in `export_onnx`.
    pool: as in `export_onnx`.
  """
  if importlib.util.find_spec('onnx') is None:
    raise ImportError(f'ONNX files need the package onnx: {installation.command("onnx")}')
  for what, value, choices in (
    ('layout', layout, LAYOUTS),
    ('weights_dtype', weights_dtype, DTYPES),
  ):
    if value not in choices:
      raise ValueError(f'{what} must be one of {", ".join(choices)}, got {value!r}.')
  params = weights.fit(params, spec, needs_classifier=True)
  num_classes = weights.count_classes(params, spec)
  if not is_folded(spec):
    params, spec = fold(params, spec)
  graph = Graph()
  height, width, channels = zoo.input_shape(spec, size or 1)
  images = Map('images', channels, (height, width) if size else None)
  images = _add_input(graph, layout, images, normalized)
  logits, pooled, factor = add_network(graph, images, params, spec)
  outputs = {'probabilities' if softmax else 'logits': num_classes}
  if softmax:
    graph.node('Softmax', logits, axis=1)
  graph.nodes[-1].output[0] = next(iter(outputs))
  if pool:
    graph.node('Mul', pooled, graph.constant('pool/factor', np.float32(factor)))
    graph.nodes[-1].output[0] = 'pool'
    outputs['pool'] = params[zoo.classifier_path(spec)]['w'].shape[0]
  return _model(
    graph,
    _shape(batch_size or 'N', *((height, width) if size else ('H', 'W')), channels, layout),
    {name: [batch_size or 'N', length] for name, length in outputs.items()},
    'float32' if normalized is None else 'uint8',
    weights_dtype,
  )


def _add_input(graph: Graph, layout: str, images: Map, normalized: Preprocessing | None) -> Map:
  """The nodes before the network: to float32, to NCHW, normalised."""
  from onnx import TensorProto

  name = images.name
  if normalized is not None:
    name = graph.node('Cast', name, to=TensorProto.FLOAT)
  if layout == 'NHWC':
    name = graph.node('Transpose', name, perm=[0, 3, 1, 2])
  images = images._replace(name=name)
  if normalized is not None:
    mean, deviation = np.array(normalized.mean), np.array(normalized.stddev)
    images = graph.affine(images, 'normalize', 1 / (255 * deviation), -mean / deviation)
  return images


def _shape(
  n: int | str, height: int | str, width: int | str, channels: int, layout: str
) -> list[int | str]:
  return [n, height, width, channels] if layout == 'NHWC' else [n, channels, height, width]


def _model(
  graph: Graph,
  input_shape: Sequence[int | str],
  outputs: Mapping[str, Sequence[int | str]],
  images_dtype: str,
  weights_dtype: str,
) -> 'onnx.ModelProto':
  from onnx import TensorProto, helper, numpy_helper

  initializers, casts = [], []
  for name, value in graph.constants.items():
    if weights_dtype != 'float32' and value.dtype == np.float32 and value.ndim > 1:
      import ml_dtypes

      small = value.astype({'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}[weights_dtype])
      initializers.append(numpy_helper.from_array(small, f'{name}/{weights_dtype}'))
      inputs, label = [f'{name}/{weights_dtype}'], f'{name}/cast'
      casts.append(helper.make_node('Cast', inputs, [name], name=label, to=TensorProto.FLOAT))
    else:
      initializers.append(numpy_helper.from_array(value, name))
  pixels = TensorProto.UINT8 if images_dtype == 'uint8' else TensorProto.FLOAT
  made = helper.make_graph(
    [*casts, *graph.nodes],
    'nfnets',
    [helper.make_tensor_value_info('images', pixels, list(input_shape))],
    [
      helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))
      for name, shape in outputs.items()
    ],
    initializers,
  )
  opset = helper.make_opsetid('', OPSET)
  return helper.make_model(made, opset_imports=[opset], ir_version=9, producer_name='nfnets')


def _set_metadata(model: 'onnx.ModelProto', spec: zoo.AnySpec, metadata: Mapping[str, Any]) -> None:
  from onnx import helper

  texts = {'spec': spec.to_dict(), **metadata}
  helper.set_model_props(
    model,
    {name: text if isinstance(text, str) else json.dumps(text) for name, text in texts.items()},
  )


def _write(model: 'onnx.ModelProto', path: pathlib.Path) -> None:
  """Writes the file, checked; large weights beside it."""
  import onnx

  size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
  if size <= _MOST_BYTES:
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
      temporary.write_bytes(model.SerializeToString())
    return
  data = path.with_name(f'{path.name}.data')
  with replacing(data) as temporary:
    offset = 0
    with temporary.open('wb') as file:
      for tensor in model.graph.initializer:
        onnx.external_data_helper.set_external_data(
          tensor, data.name, offset=offset, length=len(tensor.raw_data)
        )
        offset += file.write(tensor.raw_data)
        tensor.ClearField('raw_data')
        tensor.data_location = onnx.TensorProto.EXTERNAL
  with replacing(path) as temporary:
    temporary.write_bytes(model.SerializeToString())
  onnx.checker.check_model(str(path))
