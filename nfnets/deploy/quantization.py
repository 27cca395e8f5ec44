"""An exported network in eight bits: static quantisation by ONNX Runtime's own tool."""

import importlib.util
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nfnets import installation, picture_files
from nfnets.weights.atomic import replacing

if TYPE_CHECKING:
  import onnx
  import onnxruntime

MAX_PICTURES = 500  # that are looked at, unless told otherwise
_ROUNDS = 9  # of timing both files
# Tells the tool that its own preparation, which folds constants, is not needed: there are none.
_PREPARED = {'onnx.quant.pre_process': 'onnxruntime.quant'}


class Quantization(NamedTuple):
  """The result of quantising a file."""

  pictures: int  # that were calibrated with and compared
  skipped: str  # which files of the folder were not, in one line; '' if all were
  agreement: float  # share of the pictures with the same likeliest class as in float32
  float_bytes: int  # of the file in float32
  int8_bytes: int  # of the file in int8
  speed_ratio: float  # time of a picture in float32 over that in int8, on this machine

  def __str__(self) -> str:
    """A sentence."""
    return (
      f'{self.agreement:.1%} of {self.pictures:,} pictures get the same class as in float32; '
      f'{self.int8_bytes / 1e6:,.1f} MB instead of {self.float_bytes / 1e6:,.1f}; '
      f'{self.speed_ratio:.2f} times as fast here, one picture at a time'
    )


def quantize_onnx(
  source: str | os.PathLike,
  out: str | os.PathLike,
  pictures: str | os.PathLike | Sequence[np.ndarray],
  *,
  prepare: Callable[[str], np.ndarray] | None = None,
  max_pictures: int = MAX_PICTURES,
  weight_bits: int = 7,
) -> Quantization:
  """Writes a network of `export_onnx` with convolutions in eight bits.

  Weights are quantised per output channel, activations per tensor by their least and largest values
  over the pictures. The first convolution, which reads the images, the few numbers of efficient
  channel attention, and the classifier stay in float32.

  Args:
    source: a file that `export_onnx` wrote, with float32 weights.
    out: the new file, written whole or not at all; its metadata are those of `source`.
    pictures: to calibrate with, like those that the network will see: a folder, searched at every
      depth (`picture_files.walk`); or arrays as the network takes them, each [H, W, 3] for either
      layout of the file's input: float32, normalised; or uint8, if the file normalises.
    prepare: makes such an array of the path of a picture; needed for a folder. Pictures that it
      raises OSError or ValueError for are skipped and counted.
    max_pictures: how many are used, evenly spread over all of them. One at a time is in memory.
    weight_bits: 7; or 8, closer to float32 on processors with AVX-512 VNNI, AMX or ARM's dot
      products, and wrong on others, whose sums of 16 bits overflow.

  Returns:
    How well the two files agree on these pictures, their sizes and the ratio of their speeds.

  Raises:
    ImportError: onnx or onnxruntime is not installed.
    OSError: a file or the folder cannot be read or written.
    ValueError: `source` is no such file, `out` is the same file, there are no pictures, or they
      are not what the network takes.
  """
  for package in ('onnx', 'onnxruntime'):
    if importlib.util.find_spec(package) is None:
      raise ImportError(f'int8 needs the package {package}: {installation.command("onnx")}')
  if weight_bits not in (7, 8):
    raise ValueError(f'weight_bits must be 7 or 8, got {weight_bits}.')
  source, out = pathlib.Path(source), pathlib.Path(out)
  if out.resolve() == source.resolve():
    raise ValueError(f'{out} would replace the file in float32: choose another name.')
  model = _load(source)
  chosen = _Pictures(pictures, prepare, model, max_pictures)
  with replacing(out) as temporary:
    _quantize(model, temporary, chosen, weight_bits)
    sessions = [_session(path) for path in (source, temporary)]
    same = [len({int(s.run(None, x)[0].argmax()) for s in sessions}) == 1 for x in chosen]
    return Quantization(
      len(same),
      str(chosen.skipped) if chosen.skipped else '',
      sum(same) / len(same),
      _bytes(source),
      _bytes(temporary),
      _speed_ratio(sessions, next(iter(chosen))),
    )


def _load(source: pathlib.Path) -> 'onnx.ModelProto':
  """Reads a file that `export_onnx` wrote."""
  import onnx
  from google.protobuf.message import DecodeError

  try:
    model = onnx.load(source, format='protobuf')
  except DecodeError:
    raise ValueError(f'{source} is not an ONNX file, or is incomplete.') from None
  if not {'spec', 'layout'} <= {entry.key for entry in model.metadata_props}:
    raise ValueError(f'{source} was not written by nfnets.deploy.export_onnx: export it first.')
  if any(node.op_type == 'QuantizeLinear' for node in model.graph.node):
    raise ValueError(f'{source} is already in int8: start from the file in float32.')
  halves = onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
  if any(one.data_type in halves for one in model.graph.initializer):
    raise ValueError(f'{source} has weights of 16 bits: export it with float32 weights first.')
  return model


class _Pictures:
  """The network's inputs, one picture after the other, which can be iterated over repeatedly.

  Attributes:
    skipped: what was left out of the folder.
  """

  def __init__(
    self,
    pictures: str | os.PathLike | Sequence[np.ndarray],
    prepare: Callable[[str], np.ndarray] | None,
    model: 'onnx.ModelProto',
    most: int,
  ):
    from onnx import helper

    is_folder = isinstance(pictures, str | os.PathLike)
    self._where = os.fspath(pictures) if is_folder else 'the list'
    self.skipped = picture_files.Skipped(self._where)
    if is_folder:
      if prepare is None:
        raise ValueError('a folder needs prepare, which makes an array of the path of a picture.')
      if not os.path.isdir(pictures):
        raise NotADirectoryError(f'{self._where} is not a folder of pictures to calibrate with.')
      pictures = list(picture_files.walk(pictures, pathlib.Path(pictures).resolve(), self.skipped))
    if not len(pictures):
      raise ValueError(f'there are no pictures to calibrate with in {self._where}: give some.')
    if most < 1:
      raise ValueError(f'max_pictures must be at least 1, got {most}.')
    count = min(most, len(pictures))
    self._items = [pictures[i * len(pictures) // count] for i in range(count)]
    self._prepare = prepare
    self._broken: set[str] = set()
    kind = model.graph.input[0].type.tensor_type
    self._dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    batch, *shape = (dimension.dim_value for dimension in kind.shape.dim)  # 0: any
    self._batch = batch or 1
    self._is_nchw = {one.key: one.value for one in model.metadata_props}['layout'] == 'NCHW'
    self._shape = (*shape[1:], shape[0]) if self._is_nchw else tuple(shape)

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    """Yields inputs of the graph.

    Raises:
      ValueError: no picture can be read, or one is not what the network takes.
    """
    for item in self._items:
      is_path = isinstance(item, str) and self._prepare is not None
      picture = self._read(item) if is_path else np.asarray(item)
      if picture is not None:
        self._check(picture)
        picture = np.transpose(picture, (2, 0, 1)) if self._is_nchw else picture
        yield {'images': np.ascontiguousarray(np.repeat(picture[None], self._batch, axis=0))}
    if len(self._broken) == len(self._items):
      raise ValueError(f'no picture in {self._where} can be used: {self.skipped}.')

  def _read(self, path: str) -> np.ndarray | None:
    if path in self._broken:
      return None
    try:
      return self._prepare(path)
    except (OSError, ValueError):
      self._broken.add(path)
      self.skipped.add('that cannot be read', path)
      return None

  def _check(self, picture: np.ndarray) -> None:
    fits = len(picture.shape) == 3 and all(
      want in (0, got) for want, got in zip(self._shape, picture.shape, strict=True)
    )
    if not fits or picture.dtype != self._dtype:
      height, width, channels = (size or 'any' for size in self._shape)
      raise ValueError(
        f'the network takes pictures [{height}, {width}, {channels}] in {self._dtype}, got '
        f'{list(picture.shape)} in {picture.dtype}.'
      )


class _Reader:
  """Pictures as the tool asks for them."""

  def __init__(self, pictures: _Pictures):
    self._left = iter(pictures)

  def get_next(self) -> dict[str, np.ndarray] | None:
    return next(self._left, None)


def _quantize(
  model: 'onnx.ModelProto', out: pathlib.Path, pictures: _Pictures, weight_bits: int
) -> None:
  """Writes the file in int8, with the metadata of the one in float32."""
  import onnx
  from onnxruntime import quantization

  said = {entry.key: entry.value for entry in model.metadata_props}
  onnx.helper.set_model_props(model, {**said, **_PREPARED})
  convs = [node for node in model.graph.node if node.op_type == 'Conv']
  attention = [node for node in convs if 'efficient_channel_attention' in node.input[1]]
  quantization.quantize_static(
    model,
    out,
    _Reader(pictures),
    quant_format=quantization.QuantFormat.QDQ,
    op_types_to_quantize=['Conv'],
    nodes_to_exclude=[node.name for node in (convs[0], *attention)],
    per_channel=True,
    reduce_range=weight_bits == 7,
    activation_type=quantization.QuantType.QUInt8,
    weight_type=quantization.QuantType.QInt8,
    calibrate_method=quantization.CalibrationMethod.MinMax,  # keeps two numbers of a map
  )
  written = onnx.load(out, format='protobuf')
  onnx.helper.set_model_props(written, said)
  onnx.checker.check_model(written)
  out.write_bytes(written.SerializeToString())


def _session(path: pathlib.Path) -> 'onnxruntime.InferenceSession':
  import onnxruntime

  return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def _bytes(path: pathlib.Path) -> int:
  """Of a file, with the weights beside it if it has such."""
  beside = path.with_name(f'{path.name}.data')
  return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _speed_ratio(
  sessions: Sequence['onnxruntime.InferenceSession'], inputs: dict[str, np.ndarray]
) -> float:
  """Median time of the first over that of the second; they take turns."""
  seconds: list[list[float]] = [[] for _ in sessions]
  for _ in range(_ROUNDS):
    for session, times in zip(sessions, seconds, strict=True):
      began = time.perf_counter()
      session.run(None, inputs)
      times.append(time.perf_counter() - began)
  first, second = map(statistics.median, seconds)
  return first / second
