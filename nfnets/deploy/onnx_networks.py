"""Each family's folded network as an ONNX graph, from images [N, C, H, W] to logits [N, K]."""

from collections.abc import Mapping

import numpy as np

from nfnets import activations, sides, slow_fast, zoo
from nfnets.baselines.efficientnet import EfficientNetSpec
from nfnets.baselines.resnet import ResNetSpec
from nfnets.baselines.unnormalized import UnnormalizedSpec
from nfnets.baselines.wide_resnet import WideResNetSpec
from nfnets.block_plan import BlockPlan, plan_blocks
from nfnets.deploy.onnx_graph import Graph, Map, Padding
from nfnets.sides import Sides
from nfnets.spec import ModelSpec
from nfnets.zoo import AnySpec

Params = Mapping[str, Mapping[str, np.ndarray]]


def add_network(graph: Graph, images: Map, params: Params, spec: AnySpec) -> tuple[str, str, float]:
  """Adds a folded network.

  Args:
    graph: where to.
    images: [N, C, H, W], normalised.
    params: folded, float32.
    spec: what they belong to, folded.

  Returns:
    The names of the logits and of the pooled features, and what the latter lack: a factor.

  Raises:
    ValueError: there is no graph of such networks.
  """
  if isinstance(spec, UnnormalizedSpec):
    raise ValueError(
      f'{spec.family} is a baseline without an ONNX graph: export a normalizer-free network, such '
      'as NF-ResNet-50, or this one as a StableHLO program.'
    )
  kinds = {ResNetSpec: _ResNet, EfficientNetSpec: _EfficientNet, WideResNetSpec: _WideResNet}
  kind = kinds.get(type(spec), _NormalizerFree)
  if isinstance(spec, ModelSpec) and spec.fast is not None:
    kind = _SlowFast
  return kind(graph, params, spec).outputs(images)


class _Network:
  """What the families share."""

  def __init__(self, graph: Graph, params: Params, spec: AnySpec):
    self.graph, self.params, self.spec = graph, params, spec
    self.root = f'{spec.family}/~'

  def outputs(self, images: Map) -> tuple[str, str, float]:
    """What `add_network` returns."""
    return self.classify(self.graph.mean(self.features(images)))

  def act(self, x: Map) -> Map:
    return self.graph.activation(x, self.spec.activation)

  def conv(self, x: Map, path: str, stride: Sides = 1, padding: Padding = 'SAME') -> Map:
    """A convolution; `b` is its bias, if it has one."""
    entries = self.params[path]
    return self.graph.conv(x, path, entries['w'], entries.get('b'), stride, padding)

  def squeeze_excite(self, x: Map, block: str, activation: str) -> Map:
    """Scales each channel by its attention; on maps of one pixel, Linear is a convolution."""
    attention = self.graph.mean(x)
    for name in ('linear', 'linear_1'):
      path = f'{block}/~/squeeze_excite/~/{name}'
      entries = self.params[path]
      attention = self.graph.conv(attention, path, entries['w'][None, None], entries['b'])
      attention = self.graph.activation(attention, activation if name == 'linear' else 'sigmoid')
    return self.graph.multiply(x, attention.name)

  def classify(self, x: Map, scale: float = 1.0) -> tuple[str, str, float]:
    """The classifier on means [N, D, 1, 1] of a map, which are to be multiplied by scale."""
    entries = self.params[zoo.classifier_path(self.spec)]
    pooled = self.graph.node('Flatten', x.name, axis=1)
    w = self.graph.constant('linear/w', entries['w'] * np.float32(scale))
    bias = self.graph.constant('linear/b', entries['b'])
    return self.graph.node('Gemm', pooled, w, bias), pooled, scale


class _NormalizerFree(_Network):
  """`nfnets.backbone`, line by line."""

  spec: ModelSpec

  def outputs(self, images: Map) -> tuple[str, str, float]:
    # No convolution follows the last activation to hold its gamma; the classifier does.
    conventions = self.spec.conventions
    gamma = 1.0 if conventions.gamma_in_conv else activations.get(self.spec.activation).gamma
    return self.classify(self.graph.mean(self.features(images)), gamma)

  def features(self, images: Map) -> Map:
    x = self.stem(images)
    for stage in range(len(self.spec.depth)):
      x = self.run_stage(stage, x)
    return self.end(x)

  def stem(self, images: Map) -> Map:
    spec = self.spec
    x = images
    for i, (kernel, stride, _) in enumerate(spec.stem):
      path = f'{self.root}/{spec.names.stem_conv.format(i)}'
      x = self.conv(self.act(x) if i else x, path, stride, self.padding(kernel))
    if spec.stem_pool:
      x = self.graph.max_pool(x, 3, 2, self.padding(3))
    return x

  def run_stage(self, stage: int, x: Map) -> Map:
    for i, plan in enumerate(plan_blocks(self.spec)):
      if plan.stage == stage:
        x = self.block(x, f'{self.root}/{self.spec.names.block}' + (f'_{i}' if i else ''), plan)
    return x

  def end(self, x: Map) -> Map:
    return self.act(self.conv(x, f'{self.root}/final_conv') if self.spec.final_conv else x)

  def block(self, x: Map, path: str, plan: BlockPlan) -> Map:
    spec = self.spec
    entered = self.act(x)
    shortcut = x
    if plan.is_transition:
      is_pooled = plan.stride != 1 and spec.shortcut == 'average_pool'
      seen = self.graph.average_pool(entered, plan.stride, plan.stride) if is_pooled else entered
      stride = plan.stride if spec.shortcut == 'strided_conv' else 1
      shortcut = self.conv(seen, f'{path}/~/conv_shortcut', stride)
    out = self.conv(entered, f'{path}/~/conv0')
    out = self.conv(self.act(out), f'{path}/~/conv1', plan.stride, self.padding(plan.kernel))
    if spec.two_convs:
      out = self.conv(self.act(out), f'{path}/~/conv1b', 1, self.padding(plan.second_kernel))
    if spec.attention_position == 'before_last_conv':
      out = self.attend(out, path)
    out = self.conv(self.act(out), f'{path}/~/conv2')
    if spec.attention_position == 'last':
      out = self.attend(out, path)
    return self.graph.add(out, shortcut)

  def attend(self, x: Map, block: str) -> Map:
    if self.spec.attention == 'efficient':
      return self.efficient_attention(x, f'{block}/~/efficient_channel_attention')
    return self.squeeze_excite(x, block, 'relu') if self.spec.se_ratio else x

  def efficient_attention(self, x: Map, path: str) -> Map:
    """A convolution over the channels' means, as if they were pixels of one row."""
    graph, w = self.graph, self.params[path]['w']  # [k, 1, 1]
    row = graph.constant('row', np.array([0, 1, -1], np.int64))
    column = graph.constant('column', np.array([0, -1, 1, 1], np.int64))
    weights = graph.constant(f'{path}/w', np.transpose(w, (2, 1, 0)))
    pads = [len(w) // 2] * 2  # the kernel is odd
    means = graph.node('Reshape', graph.mean(x).name, row)
    seen = graph.node('Conv', means, weights, kernel_shape=[len(w)], pads=pads)
    attention = graph.node('Reshape', graph.node('Sigmoid', seen), column)
    return graph.multiply(x, attention)

  def padding(self, kernel: Sides) -> Padding:
    if self.spec.conventions.padding == 'same':
      return 'SAME'
    return tuple((side // 2, side // 2) for side in sides.pair(kernel))


class _SlowFast(_Network):
  """`nfnets.slow_fast`, line by line."""

  spec: ModelSpec

  def outputs(self, images: Map) -> tuple[str, str, float]:
    graph, spec = self.graph, self.spec
    fast = _NormalizerFree(graph, self.params, spec.fast_trunk)
    slow = _NormalizerFree(graph, self.params, spec)
    fast.root = f'{slow_fast.fast_path(spec)}/~'
    slow.root = f'{slow_fast.slow_path(spec)}/~'
    window = (spec.fast.frames, 1)
    x, y = fast.stem(images), slow.stem(graph.max_pool(images, window, window))
    padding = fast.padding((spec.fast.lateral_kernel, 1))
    for stage in range(len(spec.depth)):
      lateral = self.conv(x, slow_fast.lateral_path(spec, stage), window, padding)
      y = graph.join(y, self.act(lateral))
      x, y = fast.run_stage(stage, x), slow.run_stage(stage, y)
    return self.classify(graph.join(graph.mean(fast.end(x)), graph.mean(slow.end(y))))


class _ResNet(_Network):
  """`nfnets.baselines.resnet` without its statistics."""

  spec: ResNetSpec

  def features(self, images: Map) -> Map:
    spec = self.spec
    x = images
    for i, (_, stride, _) in enumerate(spec.stem):
      x = self.normalized_conv(x, f'{self.root}/stem_conv{i}', f'{self.root}/stem_norm{i}', stride)
      x = self.act(x) if i + 1 < len(spec.stem) else x
    x = self.graph.max_pool(x, 3, 2) if spec.stem_pool else x
    number = 0
    for width, depth, stride in zip(spec.width, spec.depth, spec.stride, strict=True):
      for i in range(depth):
        path = f'{self.root}/block' + (f'_{number}' if number else '')
        x = self.block(x, path, width, stride if i == 0 else 1)
        number += 1
    if spec.head_channels:
      return self.act(self.normalized_conv(x, f'{self.root}/final_conv', f'{self.root}/final_norm'))
    return self.act(self.norm(x, f'{self.root}/final_norm'))

  def normalized_conv(self, x: Map, conv: str, norm: str, stride: int = 1) -> Map:
    """A convolution whose normalisation, if any, is its bias."""
    bias = self.params.get(norm, {}).get('offset')
    return self.graph.conv(x, conv, self.params[conv]['w'], bias, stride)

  def norm(self, x: Map, path: str) -> Map:
    """A normalisation of a sum, which folding leaves as a scale and an offset."""
    return self.graph.affine(x, path, self.params[path]['scale'], self.params[path]['offset'])

  def block(self, x: Map, path: str, width: int, stride: int) -> Map:
    entered = self.act(self.norm(x, f'{path}/~/norm0'))
    shortcut = x
    if stride > 1 or x.channels != width:
      is_pooled = stride > 1 and self.spec.shortcut == 'average_pool'
      seen = self.graph.average_pool(entered, stride, stride) if is_pooled else entered
      conv_stride = stride if self.spec.shortcut == 'strided_conv' else 1
      shortcut = self.conv(seen, f'{path}/~/conv_shortcut', conv_stride)
    out = self.normalized_conv(entered, f'{path}/~/conv0', f'{path}/~/norm1')
    last, two_convs = f'{path}/~/norm2', self.spec.two_convs
    norm = f'{path}/~/norm1b' if two_convs else last
    out = self.normalized_conv(self.act(out), f'{path}/~/conv1', norm, stride)
    if two_convs:
      out = self.normalized_conv(self.act(out), f'{path}/~/conv1b', last)
    out = self.conv(self.act(out), f'{path}/~/conv2')
    if self.spec.se_ratio:
      out = self.squeeze_excite(out, path, 'relu')
    return self.graph.add(out, shortcut)


class _EfficientNet(_Network):
  """`nfnets.baselines.efficientnet` without its statistics."""

  spec: EfficientNetSpec

  def features(self, images: Map) -> Map:
    spec = self.spec
    x = self.layer(images, f'{self.root}/stem_conv', f'{self.root}/stem_norm', 2)
    number = 0
    for stage in spec.stages:
      for i in range(spec.blocks(stage[-1])):
        path = f'{self.root}/mb_conv' + (f'_{number}' if number else '')
        x = self.block(x, path, stage, stage[2] if i == 0 else 1)
        number += 1
    return self.layer(x, f'{self.root}/final_conv', f'{self.root}/final_norm')

  def layer(self, x: Map, conv: str, norm: str, stride: int = 1, is_active: bool = True) -> Map:
    """A convolution, its normalisation as its bias, and an activation."""
    out = self.graph.conv(x, conv, self.params[conv]['w'], self.params[norm]['offset'], stride)
    return self.act(out) if is_active else out

  def block(self, x: Map, path: str, stage: tuple[int, ...], stride: int) -> Map:
    out = x
    if stage[0] != 1:
      out = self.layer(out, f'{path}/~/expand', f'{path}/~/expand_norm')
    out = self.layer(out, f'{path}/~/depthwise', f'{path}/~/depthwise_norm', stride)
    out = self.squeeze_excite(out, path, self.spec.activation)
    out = self.layer(out, f'{path}/~/project', f'{path}/~/project_norm', is_active=False)
    return self.graph.add(out, x) if stride == 1 and x.channels == out.channels else out


class _WideResNet(_Network):
  """`nfnets.baselines.wide_resnet`, line by line."""

  spec: WideResNetSpec

  def features(self, images: Map) -> Map:
    spec = self.spec
    x = self.conv(images, f'{self.root}/stem_conv')
    number = 0
    for depth, stride in zip(spec.depth, spec.stride, strict=True):
      for i in range(depth):
        path = f'{self.root}/block' + (f'_{number}' if number else '')
        x = self.block(x, f'{path}/~', stride if i == 0 else 1, is_first=i == 0)
        number += 1
    return self.normalized(x, f'{self.root}/final_norm')

  def normalized(self, x: Map, path: str) -> Map:
    """The normalisation of an activated map."""
    entries = self.params[f'{path}/~/group_norm']
    activated = self.act(x)
    normalized = self.graph.normalized_groups(activated, self.spec.groups, self.spec.NORM_EPS)
    return self.graph.affine(normalized, path, entries['scale'], entries['offset'])

  def block(self, x: Map, path: str, stride: int, is_first: bool) -> Map:
    out = self.conv(self.normalized(x, f'{path}/norm0'), f'{path}/conv0', stride)
    out = self.conv(self.normalized(out, f'{path}/norm1'), f'{path}/conv1')
    if is_first:
      x = self.conv(self.normalized(x, f'{path}/norm_shortcut'), f'{path}/conv_shortcut', stride)
    return self.graph.add(out, x)
