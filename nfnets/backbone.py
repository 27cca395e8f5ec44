"""The normalizer-free block and the network body that all families share.

Each block computes `x + alpha * branch(x / expected_std)` with a branch that preserves variance:
[NFNet] section 2 and figure 3 (arXiv 2102.06171), [SigProp] section 3 (arXiv 2101.08692).
"""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets import activations
from nfnets.block_plan import BlockPlan, plan_blocks
from nfnets.execution import SpaceToDepth, chain
from nfnets.execution.space_to_depth import block_of
from nfnets.layers import (
  Conv2D,
  EfficientChannelAttention,
  Padding,
  SqueezeExcite,
  StochasticDepth,
  WSConv2D,
)
from nfnets.spec import ModelSpec


def _activation(spec: ModelSpec) -> activations.Scaled:
  """The activation before a convolution, scaled by gamma unless the convolution's weights are."""
  activation = activations.scaled(spec.activation)
  is_scaled_elsewhere = spec.conventions.gamma_in_conv or spec.conventions.folded
  return activation.unscaled() if is_scaled_elsewhere else activation


def _padding(spec: ModelSpec, kernel: int) -> Padding:
  """The padding of a window of `kernel` x `kernel` pixels (kernel odd)."""
  return 'SAME' if spec.conventions.padding == 'same' else ((kernel // 2, kernel // 2),) * 2


def _conv(
  spec: ModelSpec, channels: int, kernel: int, stride: int = 1, **kwargs: Any
) -> WSConv2D | Conv2D:
  """A convolution in the conventions of the spec: standardised, unless it is folded."""
  conventions = spec.conventions
  if conventions.folded:
    kwargs.pop('gain_init', None)
    return Conv2D(channels, kernel, stride, padding=_padding(spec, kernel), **kwargs)
  return WSConv2D(
    channels,
    kernel,
    stride,
    padding=_padding(spec, kernel),
    gamma=activations.get(spec.activation).gamma if conventions.gamma_in_conv else 1.0,
    epsilon=conventions.epsilon,
    epsilon_added_to_variance=conventions.epsilon_added_to_variance,
    **kwargs,
  )


def _attention(plan: BlockPlan, spec: ModelSpec) -> hk.Module | None:
  """The block's channel attention, if the spec has one."""
  is_last = spec.attention_position == 'last'
  channels = plan.out_channels if is_last else plan.bottleneck
  if spec.attention == 'efficient':
    return EfficientChannelAttention(channels)
  return SqueezeExcite(channels, spec.attention_hidden(channels)) if spec.se_ratio else None


class NFBlock(hk.Module):
  """The normalizer-free bottleneck block, [NFNet] figure 3 and appendix."""

  def __init__(self, plan: BlockPlan, spec: ModelSpec, name: str = 'nf_block'):
    """Builds the block that one row describes."""
    super().__init__(name=name)
    self.plan = plan
    self.stage = plan.stage
    self.spec = spec
    self.activation = _activation(spec)
    # In a folded network the convolutions hold alpha, beta and the attention's factor of 2.
    folded = spec.conventions.folded
    self.alpha, self.attention_gain = (1, 1) if folded else (spec.alpha, 2)
    self.enter = self.activation if folded else self.activation.times(plan.beta)
    width, groups = plan.bottleneck, plan.groups
    self.conv0 = _conv(spec, width, 1, name='conv0')
    self.conv1 = _conv(spec, width, 3, plan.stride, feature_group_count=groups, name='conv1')
    self.conv1b = None
    if spec.two_convs:
      self.conv1b = _conv(spec, width, 3, feature_group_count=groups, name='conv1b')
    self.conv_shortcut = None
    if plan.is_transition:
      stride = plan.stride if spec.shortcut == 'strided_conv' else 1
      self.conv_shortcut = _conv(spec, plan.out_channels, 1, stride, name='conv_shortcut')
    # A block begins as the identity: by its skip gain, or by the gains of its last convolution.
    self.skip_init = hk.initializers.Constant(spec.skip_gain_init)
    gain_init = jnp.ones if spec.skip_gain else self.skip_init
    self.conv2 = _conv(spec, plan.out_channels, 1, gain_init=gain_init, name='conv2')
    self.attention = _attention(plan, spec)
    rescale = spec.conventions.stochdepth_rescale
    self.stochastic_depth = StochasticDepth(plan.stochdepth_rate, rescale)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    residual = self.stochastic_depth(self.residual(x), is_training)
    scale = self.alpha
    if self.spec.skip_gain:
      scale = hk.get_parameter('skip_gain', (), x.dtype, init=self.skip_init) * scale
    return residual * scale + self.shortcut(x)

  def residual(self, x: jax.Array) -> jax.Array:
    """The branch before stochastic depth, skip gain and alpha."""
    out = self.conv0(x, before=self.enter)
    out = self.conv1(out, before=self.activation)
    if self.conv1b is not None:
      out = self.conv1b(out, before=self.activation)
    if self.spec.attention_position == 'before_last_conv':
      out = self.attend(out)
    out = self.conv2(out, before=self.activation)
    return self.attend(out) if self.spec.attention_position == 'last' else out

  def attend(self, x: jax.Array) -> jax.Array:
    """Scales each channel by twice its attention, if the block has any."""
    return x if self.attention is None else (self.attention(x) * self.attention_gain) * x

  def shortcut(self, x: jax.Array) -> jax.Array:
    """The path around the branch: x itself, or a 1x1 convolution of what the branch sees."""
    if self.conv_shortcut is None:
      return x
    if self.plan.stride == 1 or self.spec.shortcut != 'average_pool':
      return self.conv_shortcut(x, before=self.enter)
    window = (1, self.plan.stride, self.plan.stride, 1)
    # Padding is not counted.
    return self.conv_shortcut(
      x, before=lambda x: hk.avg_pool(self.enter(x), window, window, 'SAME')
    )


def stem_block(spec: ModelSpec, image_shape: tuple[int, int]) -> int:
  """Returns the side of the pixel squares that suit a network's stem: `SpaceToDepth.block`.

  Args:
    spec: the network.
    image_shape: (H, W) of the images, pixels.
  """
  windows = [((kernel,) * 2, stride, _padding(spec, kernel)) for kernel, stride, _ in spec.stem]
  return block_of(windows, image_shape)


class NFBackbone(hk.Module):
  """Stem, stages and head of a normalizer-free network, described by a `ModelSpec`."""

  def __init__(
    self,
    num_classes: int,
    spec: ModelSpec,
    fc_init: hk.initializers.Initializer | None = None,
    name: str | None = None,
  ):
    """Builds the network.

    Args:
      num_classes: number of logits K.
      spec: the network.
      fc_init: initialiser of the classifier's weights; default N(0, spec.classifier_std^2).
      name: Haiku module name, the first part of every parameter's path; None: the spec's family.
    """
    super().__init__(name=name or spec.family)
    if num_classes < 1:
      raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
    self.spec = spec
    self.num_stages = len(spec.depth)
    self.activation = _activation(spec)
    # No convolution follows the last activation, so nothing can hold a folded network's gamma.
    conventions = spec.conventions
    lost_gamma = conventions.folded and not conventions.gamma_in_conv
    self.pool_gamma = activations.get(spec.activation).gamma if lost_gamma else 1
    self.stem_convs = [
      _conv(spec, channels, kernel, stride, name=spec.names.stem_conv.format(i))
      for i, (kernel, stride, channels) in enumerate(spec.stem)
    ]
    self.blocks = [NFBlock(plan, spec, name=spec.names.block) for plan in plan_blocks(spec)]
    self.final_conv = None
    if spec.final_conv:
      self.final_conv = _conv(spec, spec.final_channels, 1, name='final_conv')
    w_init = fc_init or hk.initializers.RandomNormal(spec.classifier_std)
    self.classifier = hk.Linear(num_classes, w_init=w_init, name='linear')

  def stem(self, images: jax.Array | SpaceToDepth) -> jax.Array:
    """Maps images [N, H, W, 3] to the first block's input."""
    x = chain(self.stem_convs, images, between=self.activation)
    if self.spec.stem_pool:
      window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
      padding = _padding(self.spec, 3)
      padding = padding if padding == 'SAME' else ((0, 0), *padding, (0, 0))
      x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x

  def features(
    self, images: jax.Array | SpaceToDepth, is_training: bool = False
  ) -> dict[str, jax.Array]:
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
      maps[f'stage{block.stage}'] = x  # the last block of a stage stays
    return maps

  def __call__(self, images: jax.Array | SpaceToDepth, is_training: bool) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: [N, H, W, 3] normalised images of any size, float32 or bfloat16.
      is_training: whether dropout and stochastic depth are active (then a random key is needed).

    Returns:
      {'pool': [N, C] pooled features, 'logits': [N, K]}, in the images' dtype.
    """
    if images.ndim != 4:
      raise ValueError(f'Images must be [N, H, W, C], got shape {images.shape}.')
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        f'Images must be normalised numbers in float32 or bfloat16, got {images.dtype}: '
        'nfnets.inference.preprocess makes them of pictures.'
      )
    maps = self.features(images, is_training)
    x = maps[f'stage{len(self.spec.depth) - 1}']  # by name: a policy of Haiku's sorts the maps
    if self.final_conv is not None:
      x = self.final_conv(x)
    x = self.activation(x)
    pool = jnp.mean(x, axis=(1, 2)) * self.pool_gamma
    out = pool
    if is_training and self.spec.drop_rate > 0:
      out = hk.dropout(hk.next_rng_key(), self.spec.drop_rate, out)
    return {'pool': pool, 'logits': self.classifier(out)}
