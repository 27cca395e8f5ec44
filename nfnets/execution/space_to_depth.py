"""Squares of pixels as channels: a smaller map with more channels and the same numbers.

The first convolutions of a network see large maps of very few channels (3, 16, 32), which use
only part of what an accelerator multiplies at once. Here b x b neighbouring pixels become the
channels of one place, and every convolution works on such places, with its weights rearranged and
padded with zeros. NFNet's four convolutions then all run at a quarter of the image's resolution.
The rearrangement is linear and copies numbers, so values and gradients are those of the plain
convolutions, up to the order of summation.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nfnets import activations
from nfnets.execution import context

Padding = str | Sequence[tuple[int, int]]  # 'SAME', 'VALID' or pixels (before, behind) of each axis
Window = tuple[Sequence[int], int | Sequence[int], Padding]  # kernel shape, stride and padding


@functools.partial(jax.tree_util.register_dataclass, data_fields=['places'], meta_fields=['block'])
@dataclasses.dataclass(frozen=True)
class SpaceToDepth:
  """A map [N, H, W, C] whose squares of pixels are the channels of one place.

  A network accepts images in this form, for example from a host that packed them, and the
  convolutions of its stem pass such maps on.

  Attributes:
    places: [N, H / block, W / block, block * block * C], from `pack`.
    block: side of the square of pixels of a place.
  """

  places: jax.Array
  block: int

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """That of the map, [N, H, W, C]."""
    n, height, width, channels = self.places.shape
    return n, height * self.block, width * self.block, channels // self.block**2

  @property
  def ndim(self) -> int:
    """Axes of the map."""
    return len(self.shape)

  @property
  def dtype(self) -> jnp.dtype:
    """Of the numbers."""
    return self.places.dtype

  def astype(self, dtype: jnp.dtype) -> 'SpaceToDepth':
    """Returns the map in another dtype."""
    return SpaceToDepth(self.places.astype(dtype), self.block)


def pack(x: jax.Array | np.ndarray, block: int) -> jax.Array | np.ndarray:
  """Makes block x block pixels the channels of one place.

  Args:
    x: [N, H, W, C], H and W multiples of block; of NumPy or JAX, and so is the result.
    block: side of the square of pixels.

  Returns:
    [N, H / block, W / block, block * block * C]: a place's channels are its pixels' channels, row
    by row.
  """
  n, height, width, channels = x.shape
  x = x.reshape(n, height // block, block, width // block, block, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, height // block, width // block, block * block * channels)


def unpack(x: jax.Array | np.ndarray, block: int) -> jax.Array | np.ndarray:
  """Undoes `pack`: [N, h, w, block * block * C] to [N, h * block, w * block, C]."""
  n, height, width, channels = x.shape
  x = x.reshape(n, height, width, block, block, channels // block**2)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(n, height * block, width * block, channels // block**2)


def as_map(x: jax.Array | SpaceToDepth) -> jax.Array:
  """Returns a map [N, H, W, C] as an array, whether its pixels are in squares or not."""
  return unpack(x.places, x.block) if isinstance(x, SpaceToDepth) else x


def chain(
  convs: Sequence[Callable[..., jax.Array]],
  images: jax.Array | SpaceToDepth,
  between: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """Returns images after a chain of convolutions, by a call of each layer.

  Args:
    convs: layers of `nfnets.layers`, called as `conv(x, before=function)`.
    images: [N, H, W, C].
    between: what comes before every convolution but the first.

  Returns:
    [N, h, w, O].
  """
  block = 1
  is_free = isinstance(images, SpaceToDepth) or not context.is_explicitly_sharded(images)
  if context.uses_space_to_depth() and activations.is_elementwise(between) and is_free:
    windows = [(conv.kernel_shape, conv.stride, conv.padding) for conv in convs]
    block = block_of(windows, images.shape[1:3])
  if getattr(images, 'block', 1) != block:
    images = as_map(images)
    images = SpaceToDepth(pack(images, block), block) if block > 1 else images
  x = convs[0](images)
  for conv in convs[1:]:
    x = conv(x, before=between)
  return x


def block_of(windows: Sequence[Window], image_shape: tuple[int, int]) -> int:
  """The side of the squares of pixels that suit a chain of convolutions.

  Args:
    windows: kernel shape, stride and padding of each convolution.
    image_shape: (H, W) of the image, pixels.

  Returns:
    The product of the strides, with which the last output is an array again; 1 if the chain has no
    stride, or another one for each axis, or the maps cannot be cut into such squares: then only the
    plain convolutions are right.
  """
  if not all(isinstance(stride, int) for _, stride, _ in windows):
    return 1
  block = total = math.prod(stride for _, stride, _ in windows)
  if any(size % block or not size for size in image_shape):
    return 1
  for kernel, stride, padding in windows:
    plan = _plan(block, tuple(kernel), stride, image_shape, padding)
    if plan is None:
      return 1
    image_shape = tuple(size // stride for size in image_shape)
    block = plan.out_block
  return total


class _Plan(NamedTuple):
  """How one convolution works on squares of pixels.

  A place holds in_block x in_block pixels of its input and out_block x out_block of its output;
  in_block = stride * out_block, so that input and output have equally many places.
  """

  kernel: tuple[int, int]
  stride: int
  in_block: int
  out_block: int
  before: tuple[int, int]  # padding, in pixels of the plain convolution: above, and on the left

  def reaches(self) -> list[tuple[int, int]]:
    """The places, before and behind its own, that an output's windows touch along each axis."""
    reaches = []
    for kernel, before in zip(self.kernel, self.before, strict=True):
      last = self.stride * (self.out_block - 1) + kernel - 1 - before
      reaches.append((-(-before // self.in_block), last // self.in_block))
    return reaches


def _plan(
  block: int,
  kernel: tuple[int, int],
  stride: int,
  size: tuple[int, int],
  padding: Padding,
) -> _Plan | None:
  """Plans a convolution of a map of this size in such squares; None: it does not work so."""
  is_named = isinstance(padding, str)
  pads = lax.padtype_to_pads(size, kernel, (stride,) * 2, padding) if is_named else padding
  outputs = [
    (length + sum(pad) - k) // stride + 1 for length, pad, k in zip(size, pads, kernel, strict=True)
  ]
  fits = all(out * stride == length for out, length in zip(outputs, size, strict=True))
  if block % stride or not fits:
    return None
  return _Plan(kernel, stride, block, block // stride, (pads[0][0], pads[1][0]))


def convolve(
  x: SpaceToDepth,
  w: jax.Array,
  bias: jax.Array | None,
  *,
  before: Callable[[jax.Array], jax.Array],
  stride: int,
  padding: Padding,
  run: Callable[..., jax.Array],
) -> SpaceToDepth | jax.Array | None:
  """Convolves squares of pixels.

  Args:
    x: a map [N, H, W, I].
    w: [kh, kw, I, O] weights of the plain convolution.
    bias: [O], or None.
    before: an elementwise function.
    stride: of both axes.
    padding: as a Window has it.
    run: convolves places: (x, w, bias, before=, padding=) -> array.

  Returns:
    before(x) convolved, [N, H / stride, W / stride, O]: an array when a place has come down to one
    pixel. None if this convolution does not work so.
  """
  plan = _plan(x.block, w.shape[:2], stride, x.shape[1:3], padding)
  if plan is None:
    return None
  tiled = None if bias is None else jnp.tile(bias, plan.out_block**2)
  out = run(x.places, _rearranged(w, plan), tiled, before=before, padding=plan.reaches())
  return out if plan.out_block == 1 else SpaceToDepth(out, plan.out_block)


def _rearranged(w: jax.Array, plan: _Plan) -> jax.Array:
  """Rearranges weights [kh, kw, I, O] for squares of input and of output pixels.

  Returns:
    [places, places, in_block^2 * I, out_block^2 * O], mostly zeros if the outputs are in squares.
  """
  in_channels, out_channels = w.shape[2:]
  b, a = plan.out_block, plan.in_block
  reaches = plan.reaches()
  places = [low + 1 + high for low, high in reaches]

  def shifted(*outputs: int) -> jax.Array:
    """The weights where the window of one of a place's output pixels finds its input pixels."""
    pads = []
    for output, kernel, before, (low, _), count in zip(
      outputs, plan.kernel, plan.before, reaches, places, strict=True
    ):
      start = low * a + plan.stride * output - before
      pads.append((start, count * a - start - kernel, 0))
    return lax.pad(w, jnp.zeros((), w.dtype), [*pads, (0, 0, 0), (0, 0, 0)])

  # [b * b, places * a, places * a, I, O], then every axis split into place and pixel.
  stacked = jnp.stack([shifted(i, j) for i in range(b) for j in range(b)])
  stacked = stacked.reshape(b * b, places[0], a, places[1], a, in_channels, out_channels)
  stacked = stacked.transpose(1, 3, 2, 4, 5, 0, 6)
  return stacked.reshape(*places, a * a * in_channels, b * b * out_channels)
