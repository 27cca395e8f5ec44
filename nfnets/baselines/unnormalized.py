"""ResNets that are trained without normalisation by their initialisation: FixUp and SkipInit.

Both have the depths and widths of ResNet-50 and its longer ones, and the classifier, zero at first,
of [SigProp] (arXiv 2101.08692), which compares the NF-ResNets with them.

FixUp (arXiv 1901.09321) is a post-activation ResNet. With L blocks, the first convolutions of a
branch start as He's N(0, 2 / fan_out), times L^(-1/4), the last one at zero. A learnt scalar bias,
0, precedes each convolution, activation and the classifier; a learnt scale, 1, ends each branch.

SkipInit (arXiv 2002.10444) is a pre-activation ResNet (ResNet-v2) whose convolutions have biases.
Each branch is multiplied by a learnt skip gain, 0 at first. Nothing else replaces normalisation:
there is no alpha, beta or gamma, and no weight standardisation.
"""

import dataclasses
from typing import ClassVar

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations, nf_resnet
from nfnets.baselines.common import Baseline, BaselineSpec, Conv2D, find_variant, plan_stages
from nfnets.layers import StochasticDepth


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnnormalizedSpec(BaselineSpec):
  """A bottleneck ResNet without normalisation. Tuples have one entry per stage."""

  MIXES_EXAMPLES: ClassVar[bool] = False

  depth: tuple[int, ...]  # blocks of each stage
  width: tuple[int, ...] = (256, 512, 1024, 2048)  # output channels of each stage
  stride: tuple[int, ...] = (1, 2, 2, 2)  # of the first block of each stage
  expansion: float = 0.25  # bottleneck width over output width
  stem_width: int = 64  # output channels of the first convolution, 7x7 with stride 2
  stem_pool: bool = True  # a 3x3/2 max pool after it
  stochdepth_rate: float = 0.1  # stochastic depth rate that the last block approaches

  def __post_init__(self):
    """Checks that a network can be built."""
    super().__post_init__()
    if not len(self.width) == len(self.depth) == len(self.stride) or not self.depth:
      raise ValueError(
        f'A {type(self).__name__} needs a width, a depth and a stride for each stage, got '
        f'{self.width}, {self.depth} and {self.stride}.'
      )
    for width in self.width:
      if self.bottleneck_width(width) < 1:
        raise ValueError(
          f'A stage {width} wide has no bottleneck with expansion={self.expansion}: choose more of '
          'either.'
        )

  def bottleneck_width(self, width: int) -> int:
    """Channels inside a block of `width` output channels."""
    return int(width * self.expansion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixUpSpec(UnnormalizedSpec):
  """A FixUp ResNet."""

  FAMILY: ClassVar[str] = 'FixUp_ResNet'


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkipInitSpec(UnnormalizedSpec):
  """A SkipInit ResNet."""

  FAMILY: ClassVar[str] = 'SkipInit_ResNet'


FIXUP_VARIANTS: dict[str, FixUpSpec] = {
  f'ResNet-{n}': FixUpSpec(depth=depth) for n, depth in nf_resnet.DEPTHS.items()
}
SKIPINIT_VARIANTS: dict[str, SkipInitSpec] = {
  f'ResNet-{n}': SkipInitSpec(depth=depth) for n, depth in nf_resnet.DEPTHS.items()
}


class ScalarBias(hk.Module):
  """One learnt number, `bias` [], that is added to a whole map; 0 at first."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """Adds it to x."""
    return x + hk.get_parameter('bias', (), x.dtype, init=jnp.zeros)


class BiasedConv2D(Conv2D):
  """A plain convolution with a bias `b` [O]; weights start with variance 1 / fan_in, truncated."""

  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves x [N, H, W, I] to [N, H / stride, W / stride, O]."""
    out = super().__call__(x)
    return out + hk.get_parameter('b', out.shape[-1:], out.dtype, init=jnp.zeros)


class FixUpBlock(hk.Module):
  """The post-activation bottleneck block of FixUp."""

  def __init__(
    self,
    spec: FixUpSpec,
    in_channels: int,
    out_channels: int,
    stride: int,
    stochdepth_rate: float,
    name: str = 'block',
  ):
    """Builds one block of the network."""
    super().__init__(name=name)
    self.activation = activations.get(spec.activation).function
    width = spec.bottleneck_width(out_channels)
    shrink = sum(spec.depth) ** -0.25  # L^(-1 / (2 m - 2)) of m = 3 convolutions
    self.convs = [
      Conv2D(width, 1, w_init=_he(width, shrink), name='conv0'),
      Conv2D(width, 3, stride, w_init=_he(9 * width, shrink), name='conv1'),
      Conv2D(out_channels, 1, w_init=jnp.zeros, name='conv2'),
    ]
    self.bias = {n: ScalarBias(f'bias{n}') for n in ('1a', '1b', '2a', '2b', '3a', '3b')}
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      init = _he(out_channels)
      self.conv_shortcut = Conv2D(out_channels, 1, stride, w_init=init, name='conv_shortcut')
    self.stochastic_depth = StochasticDepth(stochdepth_rate, rescale=True)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    x = self.bias['1a'](x)
    branch = self.stochastic_depth(self.residual(x), is_training)
    return self.activation(branch + self.shortcut(x))

  def residual(self, x: jax.Array) -> jax.Array:
    """The branch, of the block's biased input."""
    out = self.activation(self.bias['1b'](self.convs[0](x)))
    out = self.activation(self.bias['2b'](self.convs[1](self.bias['2a'](out))))
    out = self.convs[2](self.bias['3a'](out))
    return self.bias['3b'](out * hk.get_parameter('scale', (), out.dtype, init=jnp.ones))

  def shortcut(self, x: jax.Array) -> jax.Array:
    """The path around the branch: x itself, or a 1x1 convolution of it."""
    return x if self.conv_shortcut is None else self.conv_shortcut(x)


class SkipInitBlock(hk.Module):
  """The pre-activation bottleneck block of SkipInit."""

  def __init__(
    self,
    spec: SkipInitSpec,
    in_channels: int,
    out_channels: int,
    stride: int,
    stochdepth_rate: float,
    name: str = 'block',
  ):
    """Builds one block of the network."""
    super().__init__(name=name)
    self.activation = activations.get(spec.activation).function
    width, init = spec.bottleneck_width(out_channels), hk.initializers.VarianceScaling(1.0)
    self.convs = [
      BiasedConv2D(width, 1, w_init=init, name='conv0'),
      BiasedConv2D(width, 3, stride, w_init=init, name='conv1'),
      BiasedConv2D(out_channels, 1, w_init=init, name='conv2'),
    ]
    self.conv_shortcut = None
    if stride > 1 or in_channels != out_channels:
      self.conv_shortcut = BiasedConv2D(out_channels, 1, stride, w_init=init, name='conv_shortcut')
    self.stochastic_depth = StochasticDepth(stochdepth_rate, rescale=True)

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Maps x [N, H, W, in_channels] to [N, H / stride, W / stride, out_channels]."""
    activated = self.activation(x)
    branch = self.stochastic_depth(self.residual(activated), is_training)
    return branch + self.shortcut(x, activated)

  def residual(self, activated: jax.Array) -> jax.Array:
    """The branch with its skip gain, of the block's activated input."""
    out = self.convs[0](activated)
    for conv in self.convs[1:]:
      out = conv(self.activation(out))
    return out * hk.get_parameter('skip_gain', (), out.dtype, init=jnp.zeros)

  def shortcut(self, x: jax.Array, activated: jax.Array) -> jax.Array:
    """The path around the branch: x itself, or a 1x1 convolution of the activated input."""
    return x if self.conv_shortcut is None else self.conv_shortcut(activated)


def _he(fan_out: int, factor: float = 1.0) -> hk.initializers.Initializer:
  """He's initialisation (arXiv 1502.01852) by the outputs, as FixUp's authors have it."""
  return hk.initializers.RandomNormal((2 / fan_out) ** 0.5 * factor)


class _Unnormalized(Baseline):
  """A ResNet without normalisation; it has no state."""

  BLOCK: ClassVar[type[FixUpBlock | SkipInitBlock]]
  VARIANTS: ClassVar[dict[str, UnnormalizedSpec]]

  def __init__(
    self,
    num_classes: int,
    variant: str | UnnormalizedSpec = 'ResNet-50',
    activation: str | None = None,
    drop_rate: float | None = None,
    stochdepth_rate: float | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str | None = None,
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits K.
      variant: 'ResNet-50' to 'ResNet-600', or a spec of the class's family.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      drop_rate: dropout before the classifier.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      fc_init: initialiser of the classifier's weights; default zero, as published.
      name: Haiku module name; default the family's.

    Raises:
      ValueError: unknown variant or activation, or no class.
    """
    changes = {
      'activation': activation,
      'drop_rate': drop_rate,
      'stochdepth_rate': stochdepth_rate,
    }
    spec = find_variant(variant, self.VARIANTS, changes)
    super().__init__(num_classes, spec, fc_init or jnp.zeros, name=name or spec.FAMILY)
    stem_init = hk.initializers.VarianceScaling(1.0)
    self.stem_conv = Conv2D(spec.stem_width, 7, 2, w_init=stem_init, name='stem_conv')
    self.stages = [
      [self.BLOCK(spec, *row[:4]) for row in stage] for stage in plan_stages(spec, spec.stem_width)
    ]

  def stem(self, images: jax.Array) -> jax.Array:
    """Maps images [N, H, W, 3] to the first block's input."""
    x = self.after_stem(self.stem_conv(images))
    return hk.max_pool(x, (1, 3, 3, 1), (1, 2, 2, 1), 'SAME') if self.spec.stem_pool else x

  def after_stem(self, x: jax.Array) -> jax.Array:
    """What comes between the first convolution and the pooling."""
    return x

  def features(
    self, images: jax.Array, is_training: bool = False, test_local_stats: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stem and of each stage, without the head.

    Returns:
      {'stem', 'stage0', 'stage1', ...}: [N, h, w, C].
    """
    del test_local_stats  # there are none
    maps = {'stem': self.stem(images)}
    x = maps['stem']
    for i, blocks in enumerate(self.stages):
      for block in blocks:
        x = block(x, is_training)
      maps[f'stage{i}'] = x
    return maps


class FixUpResNet(_Unnormalized):
  """A FixUp ResNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  BLOCK = FixUpBlock
  VARIANTS = FIXUP_VARIANTS

  def __init__(self, *args, **arguments):
    """Builds the network, see `_Unnormalized`."""
    super().__init__(*args, **arguments)
    self.stem_bias = ScalarBias('stem_bias')
    self.classifier_bias = ScalarBias('classifier_bias')

  def after_stem(self, x: jax.Array) -> jax.Array:
    """The bias and the activation of the first convolution."""
    return self.activation(self.stem_bias(x))

  def finish(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """The last stage's map, which is activated already."""
    del is_training, test_local_stats
    return x

  def classify(self, pool: jax.Array) -> jax.Array:
    """The classifier, behind a bias of its own."""
    return self.classifier(self.classifier_bias(pool))


class SkipInitResNet(_Unnormalized):
  """A SkipInit ResNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  BLOCK = SkipInitBlock
  VARIANTS = SKIPINIT_VARIANTS

  def finish(self, x: jax.Array, is_training: bool, test_local_stats: bool) -> jax.Array:
    """Activates the last stage's map."""
    del is_training, test_local_stats
    return self.activation(x)
