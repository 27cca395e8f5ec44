"""The one normalizer-free block and the network body that every family shares.

The variance bookkeeping is that of [NFNet] section 2 (arXiv 2102.06171) and [SigProp] section 3:
each block computes `x + alpha * branch(x / expected_std)` with a branch that preserves variance.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets import activations
from nfnets import conv as conv_lib
from nfnets import stem as stem_lib
from nfnets.layers import (
  Conv2D,
  EfficientChannelAttention,
  Padding,
  SqueezeExcite,
  StochasticDepth,
  WSConv2D,
)
from nfnets.recompute import recomputed
from nfnets.spec import ModelSpec

_rematerialized = contextvars.ContextVar('nfnets_rematerialized_stages', default=())


@contextlib.contextmanager
def rematerialize(stages: Sequence[int]) -> Iterator[None]:
  """Inside, blocks of these stages (from 0) are computed again for the gradient, not kept.

  That takes less memory and more time, and changes no value. It holds for training calls of what
  is traced inside.
  """
  token = _rematerialized.set(tuple(stages))
  try:
    yield
  finally:
    _rematerialized.reset(token)


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
  num_blocks = sum(spec.depth)
  ramp = max(1, num_blocks - 1) if spec.conventions.stochdepth_reaches_rate else num_blocks
  for stage, depth in enumerate(spec.depth):
    for index in range(depth):
      beta = 1.0 / expected_std
      expected_std = 1.0 if index == 0 else expected_std
      expected_std = math.sqrt(expected_std**2 + spec.alpha**2)
      bottleneck = spec.bottleneck_width(stage, index)
      group_width = spec.group_width[stage] or bottleneck
      plans.append(
        BlockPlan(
          stage=stage,
          in_channels=in_channels,
          out_channels=spec.width[stage],
          bottleneck=bottleneck,
          groups=bottleneck // group_width,
          stride=spec.stride[stage] if index == 0 else 1,
          beta=beta,
          expected_std=expected_std,
          stochdepth_rate=spec.stochdepth_rate * len(plans) / ramp,
        )
      )
      in_channels = spec.width[stage]
  return plans


def _activation(spec: ModelSpec) -> Callable[[jax.Array], jax.Array]:
  """The activation before a convolution, scaled by gamma unless the convolution is."""
  if spec.conventions.gamma_in_conv or spec.conventions.folded:
    return activations.get(spec.activation).function
  return activations.scaled(spec.activation)


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


def _convolve(
  conv: WSConv2D | Conv2D,
  before: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  is_training: bool,
  activated: jax.Array | None = None,
) -> jax.Array:
  """Returns conv(before(x)); activated is before(x), if it is there already.

  For a training step on a CPU only x is kept, and before(x) computed again: half the memory.
  """
  if not (is_training and conv_lib.written_for() == 'cpu'):
    return conv(conv_lib.apart(before, conv.groups)(x) if activated is None else activated)

  def run(x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
    return _run(conv, before, x, w) + bias

  return recomputed(run)(x, *conv.weights(x.shape[-1], x.dtype, recompute=True))


def _run(
  conv: WSConv2D | Conv2D, before: Callable[[jax.Array], jax.Array], x: jax.Array, w: jax.Array
) -> jax.Array:
  """Returns conv(before(x)) without the bias, for weights that are there already.

  By no method of the module: a backward pass comes when Haiku's transform is left.
  """
  settings = {'stride': conv.stride, 'padding': conv.padding, 'groups': conv.groups}
  return conv_lib.conv(conv_lib.apart(before, conv.groups)(x), w, **settings)


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
    """Builds the block of one row."""
    super().__init__(name=name)
    self.plan = plan
    self.spec = spec
    self.activation = _activation(spec)
    # In a folded network the convolutions hold these factors.
    folded = spec.conventions.folded
    self.beta, self.alpha, self.attention_gain = (1, 1, 1) if folded else (plan.beta, spec.alpha, 2)
    # What the branch and the shortcut's convolution see of the block's input.
    self.enter = lambda x: self.activation(x) * self.beta
    width, groups = plan.bottleneck, plan.groups
    self.conv0 = _conv(spec, width, 1, name='conv0')
    self.spatial_convs = [
      _conv(spec, width, 3, plan.stride, feature_group_count=groups, name='conv1')
    ]
    if spec.two_convs:
      self.spatial_convs.append(_conv(spec, width, 3, feature_group_count=groups, name='conv1b'))
    self.conv_shortcut = None
    if plan.is_transition:
      stride = plan.stride if spec.shortcut == 'strided_conv' else 1
      self.conv_shortcut = _conv(spec, plan.out_channels, 1, stride, name='conv_shortcut')
    # A block begins as the identity: by its skip gain, or by the gains of its last convolution.
    gain_init = jnp.ones if spec.skip_gain else jnp.zeros
    self.conv2 = _conv(spec, plan.out_channels, 1, gain_init=gain_init, name='conv2')
    self.attention = _attention(plan, spec)
    rescale = spec.conventions.stochdepth_rescale
    self.stochastic_depth = StochasticDepth(plan.stochdepth_rate, rescale)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    activated = self.enter(x)
    residual = self.residual(x, activated, is_training)
    residual = self.stochastic_depth(residual, is_training)
    scale = self.alpha
    if self.spec.skip_gain:
      scale = hk.get_parameter('skip_gain', (), x.dtype, init=jnp.zeros) * scale
    return residual * scale + self.shortcut(x, activated, is_training)

  def shortcut(self, x: jax.Array, activated: jax.Array, is_training: bool) -> jax.Array:
    """The path around the branch: x itself, or a 1x1 convolution of the activated input."""
    if self.conv_shortcut is None:
      return x
    if self.plan.stride == 1 or self.spec.shortcut != 'average_pool':
      return _convolve(self.conv_shortcut, self.enter, x, is_training, activated)
    window = (1, self.plan.stride, self.plan.stride, 1)

    def pool(activated: jax.Array) -> jax.Array:
      return hk.avg_pool(activated, window, window, 'SAME')  # padding is not counted

    return _convolve(
      self.conv_shortcut, lambda x: pool(self.enter(x)), x, is_training, pool(activated)
    )

  def residual(self, x: jax.Array, activated: jax.Array, is_training: bool) -> jax.Array:
    """The branch before stochastic depth, skip gain and alpha."""
    x = self.begin(x, activated, is_training)
    for conv in self.spatial_convs[1:]:
      x = _convolve(conv, self.activation, x, is_training)
    if self.attention is not None and self.spec.attention_position == 'before_last_conv':
      x = (self.attention(x) * self.attention_gain) * x
    x = _convolve(self.conv2, self.activation, x, is_training)
    if self.attention is not None and self.spec.attention_position == 'last':
      x = (self.attention(x) * self.attention_gain) * x
    return x

  def begin(self, x: jax.Array, activated: jax.Array, is_training: bool) -> jax.Array:
    """The branch's first two convolutions."""
    conv0, conv1 = self.conv0, self.spatial_convs[0]
    # The first block's map is the largest, and of few channels: on a TPU, to compute the first
    # output again for the gradient takes 0.5 of 110 ms of F1's step and saves 26 of 2,169 MB.
    is_first = self.plan.stage == 0 and self.plan.is_transition
    if not (is_first and is_training and conv_lib.written_for() == 'tpu'):
      x = _convolve(conv0, self.enter, x, is_training, activated)
      return _convolve(conv1, self.activation, x, is_training)
    w0, bias0 = conv0.weights(x.shape[-1], x.dtype)
    w1, bias1 = conv1.weights(conv0.output_channels, x.dtype)

    @jax.checkpoint
    def run(x, w0, bias0, w1):
      return _run(conv1, self.activation, _run(conv0, self.enter, x, w0) + bias0, w1)

    return run(x, w0, bias0, w1) + bias1  # outside: its gradient is a part of what comes before


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

  def stem(self, images: jax.Array | stem_lib.PackedImages, is_training: bool = False) -> jax.Array:
    """Maps images [N, H, W, 3] to the first block's input."""
    spec = self.spec
    packed = None
    if stem_lib.is_packed():
      padding = 'SAME' if spec.conventions.padding == 'same' else 'symmetric'
      packed = stem_lib.plan(spec.stem, images.shape[1:3], padding)
    if packed is None:
      x = self.stem_convs[0](stem_lib.as_images(images))
      for conv in self.stem_convs[1:]:
        x = _convolve(conv, self.activation, x, is_training)
    else:
      x = self.packed_stem(images, packed, is_training)
    if self.spec.stem_pool:
      window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
      padding = _padding(self.spec, 3)
      padding = padding if padding == 'SAME' else ((0, 0), *padding, (0, 0))
      x = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    return x

  def packed_stem(
    self,
    images: jax.Array | stem_lib.PackedImages,
    packed: Sequence[stem_lib.PackedConv],
    is_training: bool,
  ) -> jax.Array:
    """The stem's convolutions on packed pixels."""
    x = stem_lib.as_places(images, packed[0].in_block)
    channels = [images.shape[-1], *(out for *_, out in self.spec.stem[:-1])]
    weights = [conv.weights(c, x.dtype) for conv, c in zip(self.stem_convs, channels, strict=True)]

    def run(x: jax.Array, first: int, *weights: tuple[jax.Array, jax.Array]) -> jax.Array:
      for i, (w, bias) in enumerate(weights, first):
        x = stem_lib.convolve(self.activation(x) if i else x, w, bias, packed[i])
      return x

    # A TPU stores the first output's 64 channels as 128. To compute it again for the gradient takes
    # 0.4 of 49 ms of F0's step, and saves 19 of 1,012 MB.
    recomputes = is_training and conv_lib.written_for() == 'tpu'
    begin = jax.checkpoint(run, static_argnums=1) if recomputes else run
    return run(begin(x, 0, *weights[:2]), 2, *weights[2:])

  def features(self, images: jax.Array, is_training: bool = False) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Args:
      images: [N, H, W, 3] normalised images.
      is_training: whether stochastic depth is active (then a random key is needed).

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C], before the next activation.
    """
    maps = {'stem': self.stem(images, is_training)}
    x = maps['stem']
    for block in self.blocks:
      if is_training and block.plan.stage in _rematerialized.get():
        x = hk.remat(lambda x, block=block: block(x, True))(x)
      else:
        x = block(x, is_training)
      maps[f'stage{block.plan.stage}'] = x  # the last block of a stage stays
    return maps

  def __call__(
    self, images: jax.Array | stem_lib.PackedImages, is_training: bool
  ) -> dict[str, jax.Array]:
    """Classifies images.

    Args:
      images: [N, H, W, 3] normalised images of any size, float32 or bfloat16; or packed ones.
      is_training: whether dropout and stochastic depth are active (then a random key is needed).

    Returns:
      {'pool': [N, C] pooled features, 'logits': [N, K]}, in the images' dtype.
    """
    if images.ndim != 4:
      raise ValueError(f'Images must be [N, H, W, C], got shape {images.shape}.')
    *_, x = self.features(images, is_training).values()
    if self.final_conv is not None:
      x = _convolve(self.final_conv, lambda x: x, x, is_training)
    x = self.activation(x)
    pool = jnp.mean(x, axis=(1, 2)) * self.pool_gamma
    out = pool
    if is_training and self.spec.drop_rate > 0:
      out = hk.dropout(hk.next_rng_key(), self.spec.drop_rate, out)
    return {'pool': pool, 'logits': self.classifier(out)}
