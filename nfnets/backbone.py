"""The normalizer-free block and the network body that all families share.

Each block computes `x + alpha * branch(x / expected_std)` with a branch that preserves variance:
[NFNet] section 2 and figure 3 (arXiv 2102.06171), [SigProp] section 3 (arXiv 2101.08692).
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets import activations, sides
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
from nfnets.sides import Sides
from nfnets.spec import ModelSpec


def _activation(spec: ModelSpec) -> activations.Scaled:
  """The activation before a convolution, scaled by gamma unless the convolution's weights are."""
  activation = activations.scaled(spec.activation)
  is_scaled_elsewhere = spec.conventions.gamma_in_conv or spec.conventions.folded
  return activation.unscaled() if is_scaled_elsewhere else activation


def _padding(spec: ModelSpec, kernel: Sides) -> Padding:
  """The padding of a window of `kernel` pixels (odd)."""
  if spec.conventions.padding == 'same':
    return 'SAME'
  return tuple((side // 2, side // 2) for side in sides.pair(kernel))


def standardized_conv(
  spec: ModelSpec, channels: int, kernel: Sides, stride: Sides = 1, **kwargs: Any
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
    self.conv0 = standardized_conv(spec, width, 1, name='conv0')
    self.conv1 = standardized_conv(
      spec, width, plan.kernel, plan.stride, feature_group_count=groups, name='conv1'
    )
    self.conv1b = None
    if spec.two_convs:
      self.conv1b = standardized_conv(
        spec, width, plan.second_kernel, feature_group_count=groups, name='conv1b'
      )
    self.conv_shortcut = None
    if plan.is_transition:
      stride = plan.stride if spec.shortcut == 'strided_conv' else 1
      self.conv_shortcut = standardized_conv(
        spec, plan.out_channels, 1, stride, name='conv_shortcut'
      )
    # A block begins as the identity: by its skip gain, or by the gains of its last convolution.
    self.skip_init = hk.initializers.Constant(spec.skip_gain_init)
    gain_init = jnp.ones if spec.skip_gain else self.skip_init
    self.conv2 = standardized_conv(spec, plan.out_channels, 1, gain_init=gain_init, name='conv2')
    self.attention = _attention(plan, spec)
    rescale = spec.conventions.stochdepth_rescale
    self.stochastic_depth = StochasticDepth(plan.stochdepth_rate, rescale)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, h, w, out_channels], smaller by the stride."""
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
    window = (1, *sides.pair(self.plan.stride), 1)
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
  if spec.fast is not None:  # two stems, of which one sees other images
    return 1
  windows = [
    (sides.pair(kernel), stride, _padding(spec, kernel)) for kernel, stride, _ in spec.stem
  ]
  return block_of(windows, image_shape)


def check_images(images: jax.Array | SpaceToDepth) -> None:
  """Raises ValueError unless a network can be called with these images."""
  if images.ndim != 4:
    raise ValueError(f'Images must be [N, H, W, C], got shape {images.shape}.')
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise ValueError(
      f'Images must be normalised numbers in float32 or bfloat16, got {images.dtype}: '
      'nfnets.inference.preprocess makes them of pictures.'
    )


class Classifier:
  """Dropout and the linear layer of a network, in whose module its parameters are."""

  def __init__(
    self, num_classes: int | None, spec: ModelSpec, fc_init: hk.initializers.Initializer | None
  ):
    """Takes the arguments of the network."""
    self.drop_rate = spec.drop_rate
    w_init = fc_init or hk.initializers.RandomNormal(spec.classifier_std)
    self.linear = None
    if num_classes is not None:
      self.linear = hk.Linear(num_classes, w_init=w_init, name='linear')

  def __call__(self, pool: jax.Array, is_training: bool) -> dict[str, jax.Array]:
    """Returns what a network returns, for its pooled features [N, D]."""
    if self.linear is None:
      return {'pool': pool}
    out = pool
    if is_training and self.drop_rate > 0:
      out = hk.dropout(hk.next_rng_key(), self.drop_rate, out)
    return {'pool': pool, 'logits': self.linear(out)}


class NFBackbone(hk.Module):
  """Stem, stages and head of a normalizer-free network, described by a `ModelSpec`."""

  def __init__(
    self,
    num_classes: int | None,
    spec: ModelSpec,
    fc_init: hk.initializers.Initializer | None = None,
    name: str | None = None,
  ):
    """Builds the network.

    Args:
      num_classes: number of logits K; None: no classifier, only pooled features.
      spec: the network.
      fc_init: initialiser of the classifier's weights; default N(0, spec.classifier_std^2).
      name: Haiku module name, the first part of every parameter's path; None: the spec's family.
    """
    super().__init__(name=name or spec.family)
    if num_classes is not None and num_classes < 1:
      raise ValueError(f'num_classes must be at least 1, got {num_classes}.')
    self.spec = spec
    self.num_stages = len(spec.depth)
    self.activation = _activation(spec)
    # No convolution follows the last activation, so nothing can hold a folded network's gamma.
    conventions = spec.conventions
    lost_gamma = conventions.folded and not conventions.gamma_in_conv
    self.pool_gamma = activations.get(spec.activation).gamma if lost_gamma else 1
    self.stem_convs = [
      standardized_conv(spec, channels, kernel, stride, name=spec.names.stem_conv.format(i))
      for i, (kernel, stride, channels) in enumerate(spec.stem)
    ]
    self.blocks = [NFBlock(plan, spec, name=spec.names.block) for plan in plan_blocks(spec)]
    self.final_conv = None
    if spec.final_conv:
      self.final_conv = standardized_conv(spec, spec.final_channels, 1, name='final_conv')
    self.classify = Classifier(num_classes, spec, fc_init)

  def stem(self, images: jax.Array | SpaceToDepth) -> jax.Array:
    """Maps images [N, H, W, C] to the first block's input."""
    x = chain(self.stem_convs, images, between=self.activation)
    if self.spec.stem_pool:
      window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
      padding = _padding(self.spec, 3)
      padding = padding if padding == 'SAME' else ((0, 0), *padding, (0, 0))
      x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x

  def run_stage(self, stage: int, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps the input [N, H, W, C] of a stage, numbered from 0, to its output."""
    for block in self.blocks:
      if block.stage == stage:
        x = block(x, is_training)
    return x

  def pool(self, x: jax.Array, activation: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Maps the last stage's output [N, H, W, C] to the means [N, D] of an activation."""
    if self.final_conv is not None:
      x = self.final_conv(x)
    return jnp.mean(activation(x), axis=(1, 2))

  def features(
    self, images: jax.Array | SpaceToDepth, is_training: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Args:
      images: [N, H, W, C] normalised images.
      is_training: whether stochastic depth is active (then a random key is needed).

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C], before the next activation.
    """
    maps = {'stem': self.stem(images)}
    x = maps['stem']
    for stage in range(self.num_stages):
      x = maps[f'stage{stage}'] = self.run_stage(stage, x, is_training)
    return maps

  def __call__(self, images: jax.Array | SpaceToDepth, is_training: bool) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: [N, H, W, C] normalised images of any size, float32 or bfloat16; C is 3 for pictures
        and 1 for spectrograms, [N, time, mel, 1].
      is_training: whether dropout and stochastic depth are active (then a random key is needed).

    Returns:
      {'pool': [N, D] pooled features, 'logits': [N, K]}, in the images' dtype; no logits without a
      classifier.
    """
    check_images(images)
    maps = self.features(images, is_training)
    last = maps[f'stage{self.num_stages - 1}']  # by name: a policy of Haiku's sorts the maps
    return self.classify(self.pool(last, self.activation) * self.pool_gamma, is_training)
