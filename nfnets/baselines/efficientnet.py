"""EfficientNet B0..B7 (arXiv 1905.11946), the strongest baseline of [NFNet] (arXiv 2102.06171)."""

import dataclasses
import math
from typing import ClassVar

import haiku as hk
import jax

from nfnets import activations
from nfnets.baselines.common import Baseline, BaselineSpec, Conv2D, find_variant, make_norm
from nfnets.layers import SqueezeExcite, StochasticDepth
from nfnets.spec import round_channels

_CHANNEL_MULTIPLE = 8
# Of a depthwise convolution each output sees k * k weights, so these keep its variance.
_DEPTHWISE_INIT = hk.initializers.VarianceScaling(2.0, 'fan_in', 'truncated_normal')
_CONV_INIT = hk.initializers.VarianceScaling(2.0, 'fan_out', 'truncated_normal')
_CLASSIFIER_INIT = hk.initializers.VarianceScaling(1 / 3, 'fan_out', 'uniform')

Stage = tuple[int, int, int, int, int]  # expansion, kernel size, stride, output channels, blocks

# Table 1 of the paper, rows 2 to 8.
_B0_STAGES: tuple[Stage, ...] = (
  (1, 3, 1, 16, 1),
  (6, 3, 2, 24, 2),
  (6, 5, 2, 40, 2),
  (6, 3, 2, 80, 3),
  (6, 5, 1, 112, 3),
  (6, 5, 2, 192, 4),
  (6, 3, 1, 320, 1),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EfficientNetSpec(BaselineSpec):
  """An EfficientNet: a table of stages and its compound scaling."""

  FAMILY: ClassVar[str] = 'EfficientNet'
  NORM_DECAY: ClassVar[float] = 0.99
  NORM_EPS: ClassVar[float] = 1e-3

  width_multiple: float = 1.0  # of all channels, which are then rounded to multiples of 8
  depth_multiple: float = 1.0  # of the blocks of each stage, rounded up
  stages: tuple[Stage, ...] = _B0_STAGES
  stem_channels: int = 32
  head_channels: int = 1280
  se_ratio: float = 0.25  # hidden width of squeeze-excite over the block's input channels
  activation: str = 'swish'
  stochdepth_rate: float = 0.2

  def __post_init__(self):
    """Checks that a network can be built."""
    super().__post_init__()
    if any(len(stage) != len(_B0_STAGES[0]) or min(stage) < 1 for stage in self.stages):
      raise ValueError(
        'Each of EfficientNetSpec.stages has five positive numbers: expansion, kernel size, '
        f'stride, output channels, blocks; got {self.stages}.'
      )
    if not self.stages or min(self.width_multiple, self.depth_multiple, self.se_ratio) <= 0:
      raise ValueError('An EfficientNetSpec needs stages, and positive multiples and se_ratio.')

  def conv_before(self, norm: str) -> str | None:
    """Every normalisation follows the convolution that it is named after."""
    return norm.replace('_norm', '_conv' if norm in ('stem_norm', 'final_norm') else '')

  def channels(self, channels: int) -> int:
    """Scales a number of channels of B0: to the nearest multiple of 8, down by at most a tenth."""
    return round_channels(channels * self.width_multiple, _CHANNEL_MULTIPLE)

  def blocks(self, blocks: int) -> int:
    """Scales a number of blocks of B0."""
    return math.ceil(blocks * self.depth_multiple)


# Width, depth, side in pixels, dropout, from the released code.
_COEFFICIENTS = (
  (1.0, 1.0, 224, 0.2),
  (1.0, 1.1, 240, 0.2),
  (1.1, 1.2, 260, 0.3),
  (1.2, 1.4, 300, 0.3),
  (1.4, 1.8, 380, 0.4),
  (1.6, 2.2, 456, 0.4),
  (1.8, 2.6, 528, 0.5),
  (2.0, 3.1, 600, 0.5),
)

VARIANTS: dict[str, EfficientNetSpec] = {
  f'B{n}': EfficientNetSpec(
    width_multiple=width,
    depth_multiple=depth,
    train_size=size,
    test_size=size,
    drop_rate=drop_rate,
  )
  for n, (width, depth, size, drop_rate) in enumerate(_COEFFICIENTS)
}


class MBConv(hk.Module):
  """The inverted bottleneck: expand, depthwise convolution, squeeze-excite, project."""

  def __init__(
    self,
    spec: EfficientNetSpec,
    stage: Stage,
    in_channels: int,
    stride: int,
    stochdepth_rate: float,
    cross_replica_axis: str | None,
    name: str = 'mb_conv',
  ):
    """Builds one block of a stage."""
    super().__init__(name=name)
    expansion, kernel, _, channels, _ = stage
    out_channels = spec.channels(channels)
    self.activation = activations.get(spec.activation).function
    self.has_shortcut = stride == 1 and in_channels == out_channels
    width = in_channels * expansion
    self.layers = []
    if expansion != 1:
      self.layers.append(
        (
          Conv2D(width, 1, w_init=_CONV_INIT, name='expand'),
          make_norm(spec, 'expand_norm', cross_replica_axis),
        )
      )
    self.layers.append(
      (
        Conv2D(width, kernel, stride, width, w_init=_DEPTHWISE_INIT, name='depthwise'),
        make_norm(spec, 'depthwise_norm', cross_replica_axis),
      )
    )
    hidden = max(1, int(in_channels * spec.se_ratio))
    self.attention = SqueezeExcite(width, hidden, activation=self.activation)
    self.project = Conv2D(out_channels, 1, w_init=_CONV_INIT, name='project')
    self.project_norm = make_norm(spec, 'project_norm', cross_replica_axis)
    self.stochastic_depth = StochasticDepth(stochdepth_rate, rescale=True)

  def __call__(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    out = x
    for conv, norm in self.layers:
      out = self.activation(norm(conv(out), is_training, test_local_stats))
    out = self.attention(out) * out
    out = self.project_norm(self.project(out), is_training, test_local_stats)
    return self.stochastic_depth(out, is_training) + x if self.has_shortcut else out


def _make_stages(
  spec: EfficientNetSpec, channels: int, cross_replica_axis: str | None
) -> list[list[MBConv]]:
  """The blocks of each stage. Not a method: its name would appear in the modules' paths."""
  depths = [spec.blocks(stage[-1]) for stage in spec.stages]
  index = 0
  stages = []
  for stage, depth in zip(spec.stages, depths, strict=True):
    blocks = []
    for i in range(depth):
      stride = stage[2] if i == 0 else 1
      rate = spec.stochdepth_rate * index / sum(depths)
      blocks.append(MBConv(spec, stage, channels, stride, rate, cross_replica_axis))
      channels = spec.channels(stage[3])
      index += 1
    stages.append(blocks)
  return stages


class EfficientNet(Baseline):
  """An EfficientNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  def __init__(
    self,
    num_classes: int,
    variant: str | EfficientNetSpec = 'B0',
    activation: str | None = None,
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    cross_replica_axis: str | None = None,
    name: str = EfficientNetSpec.FAMILY,
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits K.
      variant: 'B0'..'B7', or an `EfficientNetSpec`.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      drop_rate: dropout before the classifier.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      cross_replica_axis: name of a mapped axis whose devices normalise their examples together.
      name: Haiku module name.

    Raises:
      ValueError: unknown variant or activation, or no class.
    """
    changes = {
      'activation': activation,
      'drop_rate': drop_rate,
      'stochdepth_rate': stochdepth_rate,
    }
    spec = find_variant(variant, VARIANTS, changes)
    super().__init__(num_classes, spec, _CLASSIFIER_INIT, name=name)
    stem_channels = spec.channels(spec.stem_channels)
    self.stem_conv = Conv2D(stem_channels, 3, 2, w_init=_CONV_INIT, name='stem_conv')
    self.stem_norm = make_norm(spec, 'stem_norm', cross_replica_axis)
    self.stages = _make_stages(spec, stem_channels, cross_replica_axis)
    head_channels = spec.channels(spec.head_channels)
    self.final_conv = Conv2D(head_channels, 1, w_init=_CONV_INIT, name='final_conv')
    self.final_norm = make_norm(spec, 'final_norm', cross_replica_axis)

  def features(
    self, images: jax.Array, is_training: bool = False, test_local_stats: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Returns:
      {'stem', 'stage0', ..., 'stage6'}: [N, h, w, C].
    """
    x = self.stem_norm(self.stem_conv(images), is_training, test_local_stats)
    x = self.activation(x)
    maps = {'stem': x}
    for i, blocks in enumerate(self.stages):
      for block in blocks:
        x = block(x, is_training, test_local_stats)
      maps[f'stage{i}'] = x
    return maps

  def finish(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Convolves, normalises and activates the last stage's map."""
    return self.activation(self.final_norm(self.final_conv(x), is_training, test_local_stats))
