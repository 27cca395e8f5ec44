"""ResNets with batch normalisation: ResNet-v2, SE-ResNeXt-D and the twins of the NFNets.

ResNet-v2 (pre-activation, arXiv 1603.05027) has the depths and widths of the NF-ResNets of
[SigProp] (arXiv 2101.08692), for which it is the baseline. SE-ResNeXt-D, from which [NFNet] starts
(arXiv 2102.06171, section 4), adds what its name says: squeeze-excite (arXiv 1709.01507), grouped
3x3 convolutions (ResNeXt, arXiv 1611.05431), and the stem of three 3x3 convolutions and the average
pooled shortcut of ResNet-D (arXiv 1812.01187); GELU, group width 128 and squeeze-excite ratio 0.5
are [NFNet]'s. The stride is in the 3x3 convolution.

BN-F0 to BN-F7 are the NFNets F0 to F7 with batch normalisation: their depths, widths and stem,
their second 3x3 convolution and their final 1x1 convolution, but plain convolutions, each behind a
normalisation, and no alpha, beta, gamma or skip gain. [NFNet] table 3 times such networks.
"""

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations, nf_resnet, nfnet
from nfnets.baselines.common import (
  Baseline,
  BaselineSpec,
  Conv2D,
  find_variant,
  make_norm,
  plan_stages,
)
from nfnets.layers import SqueezeExcite, StochasticDepth
from nfnets.spec import ModelSpec, StemConv, check_choice

_SHORTCUTS = ('strided_conv', 'average_pool')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetSpec(BaselineSpec):
  """A ResNet with batch normalisation. Tuples have one entry per stage."""

  FAMILY: ClassVar[str] = 'BN_ResNet'
  NORM_DECAY: ClassVar[float] = 0.9
  NORM_EPS: ClassVar[float] = 1e-5

  depth: tuple[int, ...]  # blocks of each stage
  width: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels of each stage
  stride: tuple[int, ...] = (1, 2, 2, 2)  # of the first block of each stage
  expansion: float = 0.25  # bottleneck width over output width
  group_width: int = 0  # channels of a group of the 3x3 convolutions; 0: no groups
  se_ratio: float = 0.0  # hidden width over output width of squeeze-excite; 0: none
  shortcut: str = 'strided_conv'  # 1x1, or 'average_pool' before an unstrided one
  stem: tuple[StemConv, ...] = ((7, 2, 64),)  # kernel size, stride, output channels
  stem_pool: bool = True  # a 3x3/2 max pool after the stem's convolutions
  two_convs: bool = False  # a second 3x3 convolution in each block
  head_channels: int = 0  # of a 1x1 convolution before the last normalisation; 0: none

  def __post_init__(self):
    """Checks that a network can be built."""
    super().__post_init__()
    if not len(self.width) == len(self.depth) == len(self.stride) or not self.stem:
      raise ValueError(
        'A ResNetSpec needs a width, a depth and a stride for each stage, and a stem; got '
        f'{self.width}, {self.depth}, {self.stride} and {self.stem}.'
      )
    check_choice('ResNetSpec.shortcut', self.shortcut, _SHORTCUTS)
    for width in self.width:
      bottleneck = self.bottleneck_width(width)
      if not bottleneck or bottleneck % (self.group_width or bottleneck):
        raise ValueError(
          f'A stage {width} wide has a bottleneck of {bottleneck}, which is not a multiple of '
          f'group_width={self.group_width}.'
        )

  def conv_before(self, norm: str) -> str | None:
    """A block's first normalisation follows a sum (or the stem's pooling), as may the last."""
    if norm.startswith('stem_norm'):
      return norm.replace('norm', 'conv')
    if norm == 'final_norm':
      return 'final_conv' if self.head_channels else None
    before_last = 'conv1b' if self.two_convs else 'conv1'
    return {'norm1': 'conv0', 'norm1b': 'conv1', 'norm2': before_last}.get(norm)

  def bottleneck_width(self, width: int) -> int:
    """Channels inside a block of `width` output channels."""
    return int(width * self.expansion)


def _twin(spec: ModelSpec) -> ResNetSpec:
  """The batch-normalised twin of an NFNet, with its recipe."""
  return ResNetSpec(
    depth=spec.depth,
    width=spec.width,
    stride=spec.stride,
    expansion=spec.expansion[0],
    group_width=spec.group_width[0],
    se_ratio=spec.se_ratio,
    shortcut=spec.shortcut,
    stem=spec.stem,
    stem_pool=spec.stem_pool,
    two_convs=spec.two_convs,
    head_channels=spec.final_channels,
    activation=spec.activation,
    drop_rate=spec.drop_rate,
    stochdepth_rate=spec.stochdepth_rate,
    train_size=spec.train_size,
    test_size=spec.test_size,
    augment_magnitude=spec.augment_magnitude,
  )


VARIANTS: dict[str, ResNetSpec] = {
  **{f'ResNet-{n}': ResNetSpec(depth=depth) for n, depth in nf_resnet.DEPTHS.items()},
  **{
    f'SE-ResNeXt-D-{n}': ResNetSpec(
      depth=nf_resnet.DEPTHS[n],
      expansion=0.5,
      group_width=128,
      se_ratio=0.5,
      shortcut='average_pool',
      stem=((3, 2, 32), (3, 1, 32), (3, 1, 64)),
      activation='gelu',
    )
    for n in (50, 101, 152)
  },
  **{name: _twin(spec) for name, spec in nfnet.VARIANTS.items() if not name.endswith('+')},
}


class Block(hk.Module):
  """The pre-activation bottleneck block."""

  def __init__(
    self,
    spec: ResNetSpec,
    in_channels: int,
    out_channels: int,
    stride: int,
    stochdepth_rate: float,
    cross_replica_axis: str | None,
    name: str = 'block',
  ):
    """Builds one block of the network."""
    super().__init__(name=name)
    self.spec = spec
    self.stride = stride
    self.activation = activations.get(spec.activation).function
    width = spec.bottleneck_width(out_channels)
    groups = width // (spec.group_width or width)
    middle = [('conv1', stride), *([('conv1b', 1)] if spec.two_convs else [])]
    norms = ['norm0', 'norm1', *(['norm1b'] if spec.two_convs else []), 'norm2']
    self.norms = [make_norm(spec, norm, cross_replica_axis) for norm in norms]
    self.convs = [
      Conv2D(width, 1, name='conv0'),
      *(Conv2D(width, 3, conv_stride, groups, name=conv) for conv, conv_stride in middle),
      # The branch starts at zero (the usual zero-initialised scale of the last normalisation has no
      # gradient where a relu at 0 follows it, as here).
      Conv2D(out_channels, 1, w_init=jnp.zeros, name='conv2'),
    ]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      conv_stride = stride if spec.shortcut == 'strided_conv' else 1
      self.conv_shortcut = Conv2D(out_channels, 1, conv_stride, name='conv_shortcut')
    self.attention = None
    if spec.se_ratio:
      self.attention = SqueezeExcite(out_channels, max(1, int(out_channels * spec.se_ratio)))
    self.stochastic_depth = StochasticDepth(stochdepth_rate, rescale=True)

  def __call__(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    out = x
    for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
      out = self.activation(norm(out, is_training, test_local_stats))
      if i == 0:
        shortcut = self.shortcut(x, out)
      out = conv(out)
    if self.attention is not None:
      out = self.attention(out) * out
    return self.stochastic_depth(out, is_training) + shortcut

  def shortcut(self, x: jax.Array, activated: jax.Array) -> jax.Array:
    """The path around the branch: x itself, or a 1x1 convolution of the activated input."""
    if self.conv_shortcut is None:
      return x
    if self.stride > 1 and self.spec.shortcut == 'average_pool':
      window = (1, self.stride, self.stride, 1)
      activated = hk.avg_pool(activated, window, window, 'SAME')
    return self.conv_shortcut(activated)


class ResNet(Baseline):
  """A batch-normalised ResNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  def __init__(
    self,
    num_classes: int,
    variant: str | ResNetSpec = 'ResNet-50',
    activation: str | None = None,
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    cross_replica_axis: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = ResNetSpec.FAMILY,
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits K.
      variant: a name in `VARIANTS`, or a `ResNetSpec`.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      drop_rate: dropout before the classifier.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      cross_replica_axis: name of a mapped axis whose devices normalise their examples together.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2) (arXiv 1706.02677).
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
    super().__init__(num_classes, spec, fc_init or hk.initializers.RandomNormal(0.01), name=name)
    self.stem_convs = [
      Conv2D(channels, kernel, stride, name=f'stem_conv{i}')
      for i, (kernel, stride, channels) in enumerate(spec.stem)
    ]
    self.stem_norms = [
      make_norm(spec, f'stem_norm{i}', cross_replica_axis) for i in range(len(spec.stem) - 1)
    ]
    self.stages = [
      [Block(spec, *row[:4], cross_replica_axis) for row in stage]
      for stage in plan_stages(spec, spec.stem[-1][2])
    ]
    self.final_conv = None
    if spec.head_channels:
      self.final_conv = Conv2D(spec.head_channels, 1, name='final_conv')
    self.final_norm = make_norm(spec, 'final_norm', cross_replica_axis)

  def stem(self, images: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Maps images [N, H, W, 3] to the first block's input."""
    x = self.stem_convs[0](images)
    for norm, conv in zip(self.stem_norms, self.stem_convs[1:], strict=True):
      x = conv(self.activation(norm(x, is_training, test_local_stats)))
    return hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME') if self.spec.stem_pool else x

  def features(
    self, images: jax.Array, is_training: bool = False, test_local_stats: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C], before what follows.
    """
    maps = {'stem': self.stem(images, is_training, test_local_stats)}
    x = maps['stem']
    for i, blocks in enumerate(self.stages):
      for block in blocks:
        x = block(x, is_training, test_local_stats)
      maps[f'stage{i}'] = x
    return maps

  def finish(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Convolves the last stage's map, if the spec says so, normalises and activates it."""
    x = x if self.final_conv is None else self.final_conv(x)
    return self.activation(self.final_norm(x, is_training, test_local_stats))
