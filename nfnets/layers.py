"""Layers for normalizer-free networks.

[SigProp]: Brock, De, Smith, arXiv 2101.08692.
[NFNet]: Brock, De, Smith, Simonyan, arXiv 2102.06171.
"""

import math
from collections.abc import Callable, Sequence
from typing import overload

import haiku as hk
import jax
import jax.numpy as jnp
from jax import lax

from nfnets import activations, sides
from nfnets.execution import SpaceToDepth, convolve, standardize
from nfnets.sides import Sides

Padding = str | Sequence[tuple[int, int]]
Function = Callable[[jax.Array], jax.Array]


class _WSConvND(hk.Module):
  """A convolution of `num_spatial_dims` dimensions with standardised weights."""

  num_spatial_dims: int

  def __init__(
    self,
    output_channels: int,
    kernel_shape: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    rate: int | Sequence[int] = 1,
    padding: Padding = 'SAME',
    with_bias: bool = True,
    w_init: hk.initializers.Initializer | None = None,
    b_init: hk.initializers.Initializer | None = None,
    feature_group_count: int = 1,
    gain_init: hk.initializers.Initializer = jnp.ones,
    gamma: float = 1.0,
    epsilon: float = 1e-4,
    epsilon_added_to_variance: bool = False,
    name: str | None = None,
  ):
    """Builds the layer; parameters are `w`, `gain` and, unless it is switched off, `bias`.

    Args:
      output_channels: number of output channels O.
      kernel_shape: size of the kernel, one number or one per spatial dimension.
      stride: strides, as kernel_shape.
      rate: kernel dilation, as kernel_shape.
      padding: 'SAME', 'VALID' or (low, high) for each spatial dimension.
      with_bias: whether a bias [O] is added.
      w_init: initialiser of the weights before standardisation; default N(0, 1 / fan_in), not
        truncated.
      b_init: initialiser of the bias; default zeros.
      feature_group_count: number of groups.
      gain_init: initialiser of the gains [O].
      gamma: constant factor of the weights (if the activation itself is not scaled).
      epsilon: see `standardize`.
      epsilon_added_to_variance: see `standardize`.
      name: Haiku module name.
    """
    super().__init__(name=name)
    n = self.num_spatial_dims
    self.output_channels = output_channels
    is_number = isinstance(kernel_shape, int)
    self.kernel_shape = (kernel_shape,) * n if is_number else tuple(kernel_shape)
    self.stride = stride
    self.rate = rate
    self.padding = padding
    self.with_bias = with_bias
    self.w_init = w_init
    self.b_init = b_init or jnp.zeros
    self.groups = feature_group_count
    self.gain_init = gain_init
    self.gamma = gamma
    self.epsilon = epsilon
    self.epsilon_added_to_variance = epsilon_added_to_variance

  @overload
  def __call__(self, x: jax.Array, before: Function | None = None) -> jax.Array: ...

  @overload
  def __call__(
    self, x: SpaceToDepth, before: Function | None = None
  ) -> jax.Array | SpaceToDepth: ...

  def __call__(
    self, x: jax.Array | SpaceToDepth, before: Function | None = None
  ) -> jax.Array | SpaceToDepth:
    """Convolves before(x), or x, [N, *spatial, I] to [N, *spatial_out, O].

    Pass a function that comes before the convolution, such as an activation, in the call, so that
    `nfnets.execution` can decide how to compute the two together.

    Args:
      x: inputs; computed in the dtype of the weights, which are created in the inputs' dtype.
      before: a pure function of the inputs alone.

    Raises:
      ValueError: the inputs have another rank, or their channels cannot be split into the groups.
    """
    if x.ndim != self.num_spatial_dims + 2:
      raise ValueError(
        f'{self.name} expects inputs of rank {self.num_spatial_dims + 2} '
        f'[N, {self.num_spatial_dims} spatial, channels], got shape {x.shape}.'
      )
    w = self.standardized_weight(_channels(x, before), x.dtype)
    bias = None
    if self.with_bias:
      bias = hk.get_parameter('bias', (self.output_channels,), x.dtype, init=self.b_init)
    return self.convolve(x, w, bias, before)

  def standardized_weight(self, in_channels: int, dtype: jnp.dtype) -> jax.Array:
    """Returns the weights for the convolution: [*kernel, in_channels / groups, O].

    Args:
      in_channels: channels of the inputs.
      dtype: dtype of the inputs.

    Raises:
      ValueError: the channels cannot be split into the groups.
    """
    if in_channels % self.groups or self.output_channels % self.groups:
      raise ValueError(
        f'{self.name}: {in_channels} input and {self.output_channels} output channels cannot be '
        f'split into {self.groups} groups; both must be multiples of it.'
      )
    shape = (*self.kernel_shape, in_channels // self.groups, self.output_channels)
    fan_in = math.prod(shape[:-1])
    w_init = self.w_init or hk.initializers.RandomNormal(fan_in**-0.5)
    w = hk.get_parameter('w', shape, dtype, init=w_init)
    gain = hk.get_parameter('gain', (self.output_channels,), dtype, init=self.gain_init)
    return standardize(
      w,
      gain * self.gamma,
      epsilon=self.epsilon,
      epsilon_added_to_variance=self.epsilon_added_to_variance,
    )

  def convolve(
    self, x: jax.Array | SpaceToDepth, w: jax.Array, bias: jax.Array | None, before: Function | None
  ) -> jax.Array | SpaceToDepth:
    """Applies the standardised weights."""
    window = {'stride': self.stride, 'padding': self.padding, 'rate': self.rate}
    return convolve(x, w, bias, before=before, groups=self.groups, **window)


class Conv2D(hk.Module):
  """A plain convolution of [N, H, W, C] with a bias: what to which a standardised one is folded."""

  def __init__(
    self,
    output_channels: int,
    kernel_shape: Sides,
    stride: Sides = 1,
    padding: Padding = 'SAME',
    feature_group_count: int = 1,
    name: str | None = None,
  ):
    """Builds the layer; parameters are `w` [kh, kw, I / groups, O] and `b` [O]."""
    super().__init__(name=name)
    self.output_channels = output_channels
    self.kernel_shape = sides.pair(kernel_shape)
    self.stride = stride
    self.padding = padding
    self.groups = feature_group_count

  @overload
  def __call__(self, x: jax.Array, before: Function | None = None) -> jax.Array: ...

  @overload
  def __call__(
    self, x: SpaceToDepth, before: Function | None = None
  ) -> jax.Array | SpaceToDepth: ...

  def __call__(
    self, x: jax.Array | SpaceToDepth, before: Function | None = None
  ) -> jax.Array | SpaceToDepth:
    """Convolves before(x), or x, [N, H, W, I] to [N, h, w, O]."""
    shape = (*self.kernel_shape, _channels(x, before) // self.groups, self.output_channels)
    w_init = hk.initializers.RandomNormal(math.prod(shape[:-1]) ** -0.5)
    w = hk.get_parameter('w', shape, x.dtype, init=w_init)
    b = hk.get_parameter('b', (self.output_channels,), x.dtype, init=jnp.zeros)
    window = {'stride': self.stride, 'padding': self.padding, 'groups': self.groups}
    return convolve(x, w, b, before=before, **window)


class WSConv1D(_WSConvND):
  """Standardised convolution of [N, W, C]."""

  num_spatial_dims = 1


class WSConv2D(_WSConvND):
  """Standardised convolution of [N, H, W, C].

      layer = hk.transform(lambda x: nfnets.WSConv2D(32, 3, stride=2)(x))
      params = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))

  Its parameters are `w` [kernel, kernel, I / groups, O], `gain` [O] and, with a bias, `b` [O].
  """

  num_spatial_dims = 2


class WSConv3D(_WSConvND):
  """Standardised convolution of [N, D, H, W, C]."""

  num_spatial_dims = 3


class WSConv2DTranspose(_WSConvND):
  """Standardised transposed convolution of [N, H, W, C], weights [kh, kw, I, O].

  Each output pixel is a sum over about kh * kw / (stride_h * stride_w) taps of every input
  channel, so the fan-in that keeps the variance is kh * kw * I / (stride_h * stride_w).
  """

  num_spatial_dims = 2

  def standardized_weight(self, in_channels: int, dtype: jnp.dtype) -> jax.Array:
    """Returns weights scaled for the number of taps that reach one output pixel."""
    w = super().standardized_weight(in_channels, dtype)
    strides = (self.stride,) * 2 if isinstance(self.stride, int) else self.stride
    return w * math.sqrt(math.prod(strides))

  def convolve(
    self, x: jax.Array | SpaceToDepth, w: jax.Array, bias: jax.Array | None, before: Function | None
  ) -> jax.Array:
    """Applies the standardised weights."""
    if self.groups != 1 or self.rate not in (1, (1, 1)):
      raise ValueError(f'{self.name}: a transposed convolution takes neither groups nor a rate.')
    strides = (self.stride,) * 2 if isinstance(self.stride, int) else self.stride
    padding = self.padding if isinstance(self.padding, str) else tuple(self.padding)
    x = x if before is None else before(x)
    x = x.astype(w.dtype)
    out = lax.conv_transpose(x, w, strides, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    return out if bias is None else out + bias.reshape(1, 1, 1, -1)


class SqueezeExcite(hk.Module):
  """Channel attention: mean over space, Linear, activation, Linear, sigmoid (arXiv 1709.01507)."""

  def __init__(
    self,
    output_channels: int,
    hidden_channels: int,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
    name: str = 'squeeze_excite',
  ):
    """Builds the two Linear layers (with bias, not standardised)."""
    super().__init__(name=name)
    self.activation = activation
    self.hidden = hk.Linear(hidden_channels, name='linear')
    self.out = hk.Linear(output_channels, name='linear')  # Haiku calls it linear_1

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the attention [N, 1, 1, C] in 0..1 for x [N, H, W, C]."""
    squeezed = jnp.mean(x, axis=(1, 2))  # [N, C]
    attention = jax.nn.sigmoid(self.out(self.activation(self.hidden(squeezed))))
    return attention[:, None, None, :]


class EfficientChannelAttention(hk.Module):
  """Channel attention by a 1-D convolution over the channel means (arXiv 1910.03151).

  The kernel's width follows from the channel count: t = int(|log2(C) + 1| / 2), made odd, >= 3.
  """

  def __init__(self, channels: int, name: str = 'efficient_channel_attention'):
    """Sets the width of the kernel for `channels` channels."""
    super().__init__(name=name)
    width = int(abs(math.log2(channels) + 1) / 2)
    self.kernel_size = max(width if width % 2 else width + 1, 3)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the attention [N, 1, 1, C] in 0..1 for x [N, H, W, C]."""
    init = hk.initializers.RandomNormal(self.kernel_size**-0.5)
    w = hk.get_parameter('w', (self.kernel_size, 1, 1), x.dtype, init=init)
    squeezed = jnp.mean(x, axis=(1, 2))[:, :, None]  # [N, C, 1]: the channels are the space
    attention = jax.nn.sigmoid(convolve(squeezed, w))
    return attention[:, None, None, :, 0]


class StochasticDepth(hk.Module):
  """Drops whole examples of a residual branch while training (arXiv 1603.09382).

  The kept examples are *not* divided by the keep probability unless `rescale` is set. This follows
  the published networks ([NFNet] appendix; timm rescales).
  """

  def __init__(self, rate: float, rescale: bool = False, name: str = 'stochastic_depth'):
    """Sets the probability `rate`, in [0, 1), with which an example's branch is dropped."""
    super().__init__(name=name)
    if not 0 <= rate < 1:
      raise ValueError(f'The stochastic depth rate must be in [0, 1), got {rate}.')
    self.rate = rate
    self.rescale = rescale

  def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
    """Returns x [N, ...] with some examples zeroed; x itself outside training."""
    if not is_training or self.rate == 0:
      return x
    keep = jax.random.bernoulli(hk.next_rng_key(), 1 - self.rate, (x.shape[0],))
    keep = keep.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
    return x * (keep / (1 - self.rate) if self.rescale else keep)


def _channels(x: jax.Array | SpaceToDepth, before: Function | None) -> int:
  """The channels of before(x)."""
  if before is None or activations.is_elementwise(before):
    return x.shape[-1]
  return jax.eval_shape(before, jax.ShapeDtypeStruct(x.shape, x.dtype)).shape[-1]
