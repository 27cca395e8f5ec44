"""The one normalizer-free block and the network body that every family shares.

The variance bookkeeping is that of [NFNet] section 2 (arXiv 2102.06171) and [SigProp] section 3:
each block computes `x + alpha * branch(x / expected_std)` with a branch that preserves variance.
"""

import math
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations
from nfnets.layers import SqueezeExcite, StochasticDepth, WSConv2D
from nfnets.spec import ModelSpec


class BlockPlan(NamedTuple):
  """What one block needs to know: a row of the network."""

  stage: int
  in_channels: int
  out_channels: int
  bottleneck: int  # channels between the 1x1 convolutions
  groups: int
  stride: int
  beta: float  # 1 / expected standard deviation of the block's input
  expected_std: float  # of the block's output, at skip_gain 1
  stochdepth_rate: float

  @property
  def is_transition(self) -> bool:
    """Whether the shortcut needs a convolution."""
    return self.stride > 1 or self.in_channels != self.out_channels


def plan_blocks(spec: ModelSpec) -> list[BlockPlan]:
  """Returns the rows of the network: widths, strides and the variance at each block.

  A transition block applies its shortcut convolution to the normalised input, so the variance
  starts again at 1 there and grows by alpha^2 with each block ([NFNet] section 2).
  """
  plans = []
  expected_std = 1.0
  in_channels = spec.stem[-1][2]
  for stage, depth in enumerate(spec.depth):
    for index in range(depth):
      beta = 1.0 / expected_std
      expected_std = 1.0 if index == 0 else expected_std
      expected_std = math.sqrt(expected_std**2 + spec.alpha**2)
      bottleneck = spec.bottleneck_width(stage)
      plans.append(
        BlockPlan(
          stage=stage,
          in_channels=in_channels,
          out_channels=spec.width[stage],
          bottleneck=bottleneck,
          groups=bottleneck // spec.group_width[stage],
          stride=spec.stride[stage] if index == 0 else 1,
          beta=beta,
          expected_std=expected_std,
          stochdepth_rate=spec.stochdepth_rate * len(plans) / sum(spec.depth),
        )
      )
      in_channels = spec.width[stage]
  return plans


class NFBlock(hk.Module):
  """The normalizer-free bottleneck block, [NFNet] figure 3 and appendix."""

  def __init__(self, plan: BlockPlan, spec: ModelSpec, name: str = 'nf_block'):
    """Builds the block of one row."""
    super().__init__(name=name)
    self.plan = plan
    self.alpha = spec.alpha
    self.activation = activations.scaled(spec.activation)
    width, groups = plan.bottleneck, plan.groups
    self.conv0 = WSConv2D(width, 1, name='conv0')
    self.spatial_convs = [WSConv2D(width, 3, plan.stride, feature_group_count=groups, name='conv1')]
    if spec.two_convs:
      self.spatial_convs.append(WSConv2D(width, 3, feature_group_count=groups, name='conv1b'))
    self.conv_shortcut = None
    if plan.is_transition:
      self.conv_shortcut = WSConv2D(plan.out_channels, 1, name='conv_shortcut')
    self.conv2 = WSConv2D(plan.out_channels, 1, name='conv2')
    self.squeeze_excite = None
    if spec.se_ratio > 0:
      hidden = max(1, int(plan.out_channels * spec.se_ratio))
      self.squeeze_excite = SqueezeExcite(plan.out_channels, hidden)
    self.stochastic_depth = StochasticDepth(plan.stochdepth_rate)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    out = self.activation(x) * self.plan.beta
    residual = self.residual(out)
    residual = self.stochastic_depth(residual, is_training)
    skip_gain = hk.get_parameter('skip_gain', (), x.dtype, init=jnp.zeros)
    return residual * (skip_gain * self.alpha) + self.shortcut(x, out)

  def shortcut(self, x: jax.Array, activated: jax.Array) -> jax.Array:
    """The path around the branch: x itself, or a pooled 1x1 convolution of the activated input."""
    if self.conv_shortcut is None:
      return x
    if self.plan.stride > 1:
      window = (1, self.plan.stride, self.plan.stride, 1)
      activated = hk.avg_pool(activated, window, window, 'SAME')
    return self.conv_shortcut(activated)

  def residual(self, x: jax.Array) -> jax.Array:
    """The branch before stochastic depth, skip gain and alpha."""
    x = self.conv0(x)
    for conv in self.spatial_convs:
      x = conv(self.activation(x))
    x = self.conv2(self.activation(x))
    if self.squeeze_excite is not None:
      x = (self.squeeze_excite(x) * 2) * x
    return x


class NFBackbone(hk.Module):
  """Stem, stages and head of a normalizer-free network, described by a `ModelSpec`."""

  def __init__(
    self,
    num_classes: int,
    spec: ModelSpec,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = 'NFNet',
  ):
    """Builds the network.

    Args:
      num_classes: number of logits K.
      spec: the network.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2).
      name: Haiku module name, the first part of every parameter's path.
    """
    super().__init__(name=name)
    if num_classes < 1:
      raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
    self.spec = spec
    self.activation = activations.scaled(spec.activation)
    self.stem_convs = [
      WSConv2D(channels, kernel, stride, name=f'stem_conv{i}')
      for i, (kernel, stride, channels) in enumerate(spec.stem)
    ]
    self.blocks = [NFBlock(plan, spec, name='nf_block') for plan in plan_blocks(spec)]
    self.final_conv = WSConv2D(spec.final_channels, 1, name='final_conv')
    self.classifier = hk.Linear(
      num_classes, w_init=fc_init or hk.initializers.RandomNormal(0.01), name='linear'
    )

  def stem(self, images: jax.Array) -> jax.Array:
    """Maps images [N, H, W, 3] to the first block's input."""
    x = images
    for i, conv in enumerate(self.stem_convs):
      x = conv(self.activation(x) if i else x)
    return x

  def features(self, images: jax.Array, is_training: bool = False) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Args:
      images: [N, H, W, 3] normalised images.
      is_training: whether stochastic depth is active (then a random key is needed).

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C], before the next activation.
    """
    maps = {'stem': self.stem(images)}
    x = maps['stem']
    for block in self.blocks:
      x = block(x, is_training)
      maps[f'stage{block.plan.stage}'] = x  # the last block of a stage stays
    return maps

  def __call__(self, images: jax.Array, is_training: bool) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: [N, H, W, 3] normalised images of any size, float32 or bfloat16.
      is_training: whether dropout and stochastic depth are active (then a random key is needed).

    Returns:
      {'pool': [N, C] pooled features, 'logits': [N, K]}, in the images' dtype.
    """
    if images.ndim != 4:
      raise ValueError(f'Images must be [N, H, W, C], got shape {images.shape}.')
    *_, x = self.features(images, is_training).values()
    x = self.activation(self.final_conv(x))
    pool = jnp.mean(x, axis=(1, 2))
    out = pool
    if is_training and self.spec.drop_rate > 0:
      out = hk.dropout(hk.next_rng_key(), self.spec.drop_rate, out)
    return {'pool': pool, 'logits': self.classifier(out)}
