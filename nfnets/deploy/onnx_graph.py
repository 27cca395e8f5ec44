"""Building an ONNX graph: each method adds the nodes of one operation on maps [N, C, H, W].

`nfnets.deploy.onnx_networks` builds networks with these methods.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import lax

from nfnets import sides
from nfnets.sides import Sides

OPSET = 20  # the first with Gelu

# 'SAME', or pixels (before, behind) of both axes.
Padding = str | Sequence[tuple[int, int]]

# Activations that are one node.
_NODES: dict[str, tuple[str, dict[str, Any]]] = {
  'celu': ('Celu', {}),
  'elu': ('Elu', {}),
  'gelu': ('Gelu', {'approximate': 'tanh'}),
  'gelu_exact': ('Gelu', {}),
  'leaky_relu': ('LeakyRelu', {'alpha': 0.01}),
  'log_softmax': ('LogSoftmax', {'axis': 1}),
  'relu': ('Relu', {}),
  'selu': ('Selu', {}),
  'sigmoid': ('Sigmoid', {}),
  'soft_sign': ('Softsign', {}),
  'softplus': ('Softplus', {}),
  'tanh': ('Tanh', {}),
}


class Map(NamedTuple):
  """A tensor of the graph."""

  name: str
  channels: int
  size: tuple[int, int] | None  # height and width in pixels; None: any


class Graph:
  """Nodes and constants under construction.

  Attributes:
    nodes: in order.
    constants: name -> array.
  """

  def __init__(self):
    """Begins an empty graph."""
    self.nodes: list[Any] = []
    self.constants: dict[str, np.ndarray] = {}

  def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node and returns the name of its one output."""
    from onnx import helper

    name = f'{kind.lower()}_{len(self.nodes)}'
    self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
    return name

  def constant(self, name: str, value: np.ndarray) -> str:
    """Adds a constant and returns its name."""
    self.constants[name] = np.ascontiguousarray(value)
    return name

  def conv(
    self,
    x: Map,
    name: str,
    w: np.ndarray,
    bias: np.ndarray | None = None,
    stride: Sides = 1,
    padding: Padding = 'SAME',
  ) -> Map:
    """Adds a convolution.

    Args:
      x: its input.
      name: of the layer, for its constants.
      w: [kh, kw, I / groups, O].
      bias: [O], or None.
      stride: as the layer's.
      padding: as the layer's.
    """
    kernel = w.shape[:2]
    inputs = [self.constant(f'{name}/w', np.transpose(w, (3, 2, 0, 1)))]
    if bias is not None:
      inputs.append(self.constant(f'{name}/b', bias))
    groups = x.channels // w.shape[2]
    window, size = _window(x, kernel, stride, padding)
    return Map(self.node('Conv', x.name, *inputs, group=groups, **window), w.shape[3], size)

  def normalized_groups(self, x: Map, groups: int, epsilon: float) -> Map:
    """Adds mean 0 and variance 1 of each group of channels, with all its pixels."""
    shape = self.constant(f'groups/{groups}', np.array([0, groups, -1], np.int64))
    ones = self.constant(f'groups/{groups}/ones', np.ones(groups, np.float32))
    zeros = self.constant(f'groups/{groups}/zeros', np.zeros(groups, np.float32))
    apart = self.node('Reshape', x.name, shape)
    normalized = self.node('InstanceNormalization', apart, ones, zeros, epsilon=epsilon)
    return x._replace(name=self.node('Reshape', normalized, self.node('Shape', x.name)))

  def average_pool(self, x: Map, kernel: Sides, stride: Sides) -> Map:
    """Adds an average pool, 'SAME', that does not count padding."""
    window, size = _window(x, kernel, stride, 'SAME')
    name = self.node('AveragePool', x.name, count_include_pad=0, **window)
    return Map(name, x.channels, size)

  def max_pool(self, x: Map, kernel: Sides, stride: Sides, padding: Padding = 'SAME') -> Map:
    """Adds a max pool."""
    window, size = _window(x, kernel, stride, padding)
    return Map(self.node('MaxPool', x.name, **window), x.channels, size)

  def activation(self, x: Map, name: str) -> Map:
    """Adds an activation by its name in `nfnets.activations.ACTIVATIONS`, not scaled."""
    if name == 'identity':
      return x
    if name == 'glu':
      half = self.constant('halves', np.array([x.channels // 2] * 2, np.int64))
      first, second = self._split(x.name, half)
      return Map(self.node('Mul', first, self.node('Sigmoid', second)), x.channels // 2, x.size)
    if name in ('silu', 'swish'):
      return x._replace(name=self.node('Mul', x.name, self.node('Sigmoid', x.name)))
    if name == 'relu6':
      bounds = [self.constant(f'bound{b}', np.array(b, np.float32)) for b in (0, 6)]
      return x._replace(name=self.node('Clip', x.name, *bounds))
    if name == 'log_sigmoid':  # -softplus(-x)
      negative = self.node('Softplus', self.node('Neg', x.name))
      return x._replace(name=self.node('Neg', negative))
    kind, attributes = _NODES[name]
    return x._replace(name=self.node(kind, x.name, **attributes))

  def _split(self, x: str, sizes: str) -> tuple[str, str]:
    from onnx import helper

    names = (f'split_{len(self.nodes)}_0', f'split_{len(self.nodes)}_1')
    self.nodes.append(helper.make_node('Split', [x, sizes], names, name=names[0], axis=1))
    return names

  def multiply(self, x: Map, y: str) -> Map:
    """Adds a product, such as of a map and its attention."""
    return x._replace(name=self.node('Mul', x.name, y))

  def add(self, x: Map, y: Map) -> Map:
    """Adds a sum of maps."""
    return x._replace(name=self.node('Add', x.name, y.name))

  def affine(self, x: Map, name: str, scale: np.ndarray, offset: np.ndarray) -> Map:
    """Adds x * scale + offset of each channel [C]."""
    scale, offset = (
      self.constant(f'{name}/{kind}', np.float32(value).reshape(1, -1, 1, 1))
      for kind, value in (('scale', scale), ('offset', offset))
    )
    return x._replace(name=self.node('Add', self.node('Mul', x.name, scale), offset))

  def mean(self, x: Map) -> Map:
    """Adds the mean over the map: [N, C, 1, 1]."""
    return Map(self.node('GlobalAveragePool', x.name), x.channels, (1, 1))

  def join(self, x: Map, y: Map) -> Map:
    """Adds the channels of a second map of the same size behind those of the first."""
    return x._replace(
      name=self.node('Concat', x.name, y.name, axis=1), channels=x.channels + y.channels
    )


def _window(
  x: Map, kernel: Sides, stride: Sides, padding: Padding
) -> tuple[dict[str, Any], tuple[int, int] | None]:
  """The attributes of a window that slides over a map, and the size of what results."""
  kernel, stride = sides.pair(kernel), sides.pair(stride)
  window: dict[str, Any] = {'kernel_shape': list(kernel), 'strides': list(stride)}
  if padding == 'SAME' and x.size is None:
    # Which side of an image of any size is padded by how much, the runtime knows.
    moves = (*kernel, *stride) != (1, 1, 1, 1)
    return window | ({'auto_pad': 'SAME_UPPER'} if moves else {}), None
  if padding == 'SAME':
    padding = lax.padtype_to_pads(x.size, kernel, stride, 'SAME')
  size = None
  if x.size is not None:
    size = tuple(
      (length + sum(pads) - k) // s + 1
      for length, pads, k, s in zip(x.size, padding, kernel, stride, strict=True)
    )
  lows, highs = zip(*padding, strict=True)
  return window | {'pads': [*lows, *highs]}, size
