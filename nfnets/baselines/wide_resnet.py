"""Wide ResNets with standardised weights and group normalisation: what private training uses.

The networks of De et al., "Unlocking High-Accuracy Differentially Private Image Classification
through Scale" (arXiv 2204.13650, section 3), for pictures of 32 pixels: the wide ResNet of
arXiv 1605.07146 with scaled weight standardisation in its convolutions, and with group
normalisation (arXiv 1803.08494) in the place of batch normalisation. Group normalisation works
within one example, so that the gradients of the examples do not depend on one another.

As in their released code, each normalisation comes after the activation, and the shortcut of a
stage's first block has an activation, a normalisation and a 1x1 convolution of its own.
"""

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations
from nfnets.baselines.common import Baseline, BaselineSpec, find_variant, plan_stages
from nfnets.layers import Conv2D, StochasticDepth, WSConv2D


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNetSpec(BaselineSpec):
  """A wide ResNet of basic blocks. Tuples have one entry per stage."""

  FAMILY: ClassVar[str] = 'WideResNet'
  NORM_EPS: ClassVar[float] = 1e-5
  MIXES_EXAMPLES: ClassVar[bool] = False

  depth: tuple[int, ...]  # blocks of each stage, of two 3x3 convolutions each
  width: tuple[int, ...]  # output channels of each stage
  stride: tuple[int, ...] = (1, 2, 2)  # of the first block of each stage
  groups: int = 16  # of each group normalisation
  stem_width: int = 16  # output channels of the first convolution, 3x3
  train_size: int = 32
  test_size: int = 32

  def __post_init__(self):
    """Checks that a network can be built."""
    super().__post_init__()
    if not len(self.width) == len(self.depth) == len(self.stride) or not self.depth:
      raise ValueError(
        'A WideResNetSpec needs a width, a depth and a stride for each stage, got '
        f'{self.width}, {self.depth} and {self.stride}.'
      )
    for channels in (self.stem_width, *self.width):
      if channels % self.groups:
        raise ValueError(
          f'{channels} channels cannot be normalised in groups={self.groups} groups: the widths '
          'must be multiples of it.'
        )


VARIANTS: dict[str, WideResNetSpec] = {
  # Depth 6 n + 4, n blocks in each stage; widths k times those of the narrow network.
  f'{depth}-{k}': WideResNetSpec(depth=(depth // 6,) * 3, width=(16 * k, 32 * k, 64 * k))
  for depth, k in ((16, 4), (40, 4), (28, 10))
}


class GroupNorm(hk.Module):
  """`hk.GroupNorm` of each example, in float32 whatever the dtype around it."""

  def __init__(self, groups: int, eps: float, name: str):
    """Builds the layer: learnt scale and offset [C]."""
    super().__init__(name=name)
    self.norm = hk.GroupNorm(groups, eps=eps, name='group_norm')

  def __call__(self, x: jax.Array) -> jax.Array:
    """Normalises x [N, H, W, C]; keeps its dtype."""
    return self.norm(x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)


def _conv(
  spec: WideResNetSpec, channels: int, kernel: int, stride: int = 1, *, name: str
) -> WSConv2D | Conv2D:
  """A standardised convolution; where the spec is folded, one that holds the standardisation."""
  kind = Conv2D if spec.folded else WSConv2D
  return kind(channels, kernel, stride, name=name)


class Block(hk.Module):
  """Twice activation, normalisation and 3x3 convolution, beside a shortcut."""

  def __init__(
    self,
    spec: WideResNetSpec,
    in_channels: int,
    out_channels: int,
    stride: int,
    stochdepth_rate: float,
    is_first: bool,
    name: str = 'block',
  ):
    """Builds one block; the first one of a stage has a convolution in its shortcut."""
    super().__init__(name=name)
    self.activation = activations.get(spec.activation).function

    def norm(name: str) -> GroupNorm:
      return GroupNorm(spec.groups, spec.NORM_EPS, name)

    self.norms = [norm('norm0'), norm('norm1')]
    self.convs = [
      _conv(spec, out_channels, 3, stride, name='conv0'),
      _conv(spec, out_channels, 3, name='conv1'),
    ]
    self.norm_shortcut = self.conv_shortcut = None
    if is_first:
      self.norm_shortcut = norm('norm_shortcut')
      self.conv_shortcut = _conv(spec, out_channels, 1, stride, name='conv_shortcut')
    self.stochastic_depth = StochasticDepth(stochdepth_rate, rescale=True)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    out = x
    for norm, conv in zip(self.norms, self.convs, strict=True):
      out = conv(norm(self.activation(out)))
    if self.conv_shortcut is not None:
      x = self.conv_shortcut(self.norm_shortcut(self.activation(x)))
    return self.stochastic_depth(out, is_training) + x


class WideResNet(Baseline):
  """A wide ResNet called as `(images, is_training)` -> `{'pool', 'logits'}`; it has no state."""

  def __init__(
    self,
    num_classes: int,
    variant: str | WideResNetSpec = '16-4',
    activation: str | None = None,
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = WideResNetSpec.FAMILY,
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits K.
      variant: a name in `VARIANTS`, or a `WideResNetSpec`.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      drop_rate: dropout before the classifier.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      fc_init: initialiser of the classifier's weights; default variance 1 / fan_in, truncated.
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
    super().__init__(num_classes, spec, fc_init or hk.initializers.VarianceScaling(1.0), name=name)
    self.stem_conv = _conv(spec, spec.stem_width, 3, name='stem_conv')
    self.stages = [
      [Block(spec, *row) for row in stage] for stage in plan_stages(spec, spec.stem_width)
    ]
    self.final_norm = GroupNorm(spec.groups, spec.NORM_EPS, 'final_norm')

  def features(
    self, images: jax.Array, is_training: bool = False, test_local_stats: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C], before the next activation.
    """
    del test_local_stats  # there are no others
    maps = {'stem': self.stem_conv(images)}
    x = maps['stem']
    for i, blocks in enumerate(self.stages):
      for block in blocks:
        x = block(x, is_training)
      maps[f'stage{i}'] = x
    return maps

  def finish(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Activates and normalises the last stage's map."""
    del is_training, test_local_stats
    return self.final_norm(self.activation(x))
