"""A stem's convolutions on packed pixels: fewer places, more channels, the same numbers.

The first convolutions of a network see large maps of very few channels (3, 16, 32), which fill
only a part of what an accelerator multiplies at once. Here b x b neighbouring pixels become the
channels of one place, and every convolution works on such places, with its weights rearranged and
padded with zeros. NFNet's four convolutions then all run at a quarter of the image's resolution.
The rearrangement is linear and copies numbers, so values and gradients are those of the plain
convolutions, up to the order of summation.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nfnets import conv as conv_lib

PACKINGS = ('auto', 'on', 'off')
_packing = contextvars.ContextVar('nfnets_stem_packing', default='auto')


@contextlib.contextmanager
def packing(name: str) -> Iterator[None]:
  """Chooses, for everything traced inside, whether stems work on packed pixels.

  'auto' packs on accelerators and not on CPUs (`jax.default_backend()`), 'on' packs wherever the
  image's size allows it (right when compiling ahead of time for an accelerator), 'off' never does.
  A function that jit has already traced keeps its choice.

  Raises:
    ValueError: there is no such choice.
  """
  if name not in PACKINGS:
    raise ValueError(f'Unknown stem packing {name!r}: choose one of {PACKINGS}.')
  token = _packing.set(name)
  try:
    yield
  finally:
    _packing.reset(token)


def is_packed() -> bool:
  """Whether what is traced now should be packed."""
  chosen = _packing.get()
  return chosen == 'on' or (chosen == 'auto' and jax.default_backend() != 'cpu')


class PackedConv(NamedTuple):
  """How one convolution of the stem works on packed pixels.

  A place holds in_block x in_block pixels of its input and out_block x out_block of its output;
  in_block = stride * out_block, so that input and output have equally many places.
  """

  kernel: int
  stride: int
  in_block: int
  out_block: int
  before: tuple[int, int]  # padding, in pixels of the plain convolution: above, and on the left

  def reach(self, before: int) -> tuple[int, int]:
    """The places, before and behind its own, that an output's windows touch along one axis."""
    last = self.stride * (self.out_block - 1) + self.kernel - 1 - before
    return -(-before // self.in_block), last // self.in_block


def plan(
  convs: Sequence[tuple[int, int, int]],
  image_shape: tuple[int, int],
  padding: str | Sequence[tuple[int, int]] = 'SAME',
) -> list[PackedConv] | None:
  """Plans the packing of a chain of convolutions whose last output is not packed.

  Args:
    convs: (kernel size, stride, output channels) of each, as `ModelSpec.stem`.
    image_shape: (H, W) of the image, pixels.
    padding: 'SAME', or 'symmetric': (k // 2, k // 2) for a kernel of k x k.

  Returns:
    One entry per convolution; None if the chain has no stride or an image's side is no multiple of
    the product of the strides: then only the plain convolutions are right.
  """
  block = math.prod(stride for _, stride, _ in convs)
  if block == 1 or any(size % block or not size for size in image_shape):
    return None
  packed = []
  sizes = image_shape
  for kernel, stride, _ in convs:
    if padding == 'SAME':
      pads = lax.padtype_to_pads(sizes, (kernel, kernel), (stride, stride), 'SAME')
    else:
      pads = [(kernel // 2, kernel // 2)] * 2
    outputs = [
      (size + sum(pad) - kernel) // stride + 1 for size, pad in zip(sizes, pads, strict=True)
    ]
    if any(out * stride != size for out, size in zip(outputs, sizes, strict=True)):
      return None
    before = (pads[0][0], pads[1][0])
    packed.append(PackedConv(kernel, stride, block, block // stride, before))
    sizes, block = tuple(outputs), block // stride
  return packed


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


@dataclasses.dataclass(frozen=True)
class PackedImages:
  """Images whose pixels are packed already, such as by the host: for a network in their place.

  Attributes:
    places: [N, h, w, block * block * C], from `pack`.
    block: side of the square of pixels of a place.
  """

  places: jax.Array
  block: int

  @property
  def shape(self) -> tuple[int, int, int, int]:
    """That of the images, [N, H, W, C]."""
    n, height, width, channels = self.places.shape
    return n, height * self.block, width * self.block, channels // self.block**2

  @property
  def ndim(self) -> int:
    """Axes of the images."""
    return len(self.shape)


def as_places(images: jax.Array | PackedImages, block: int) -> jax.Array:
  """Returns images [N, H, W, C] packed with this block, whether they were packed or not."""
  if isinstance(images, PackedImages) and images.block == block:
    return images.places
  return pack(as_images(images), block)


def as_images(images: jax.Array | PackedImages) -> jax.Array:
  """Returns images [N, H, W, C] as they are, whether they were packed or not."""
  if isinstance(images, PackedImages):
    return unpack(images.places, images.block)
  return images


def pack_weight(w: jax.Array, packed: PackedConv) -> jax.Array:
  """Rearranges weights [k, k, I, O] for packed inputs and outputs.

  Returns:
    [places, places, in_block^2 * I, out_block^2 * O], mostly zeros if the outputs are packed.
  """
  channels, features = w.shape[2:]
  b, a = packed.out_block, packed.in_block
  reaches = [packed.reach(before) for before in packed.before]
  places = [low + 1 + high for low, high in reaches]

  def shifted(*outputs: int) -> jax.Array:
    """The weights where the window of one of a place's output pixels finds its input pixels."""
    pads = []
    for output, before, (low, _), count in zip(
      outputs, packed.before, reaches, places, strict=True
    ):
      start = low * a + packed.stride * output - before
      pads.append((start, count * a - start - packed.kernel, 0))
    return lax.pad(w, jnp.zeros((), w.dtype), [*pads, (0, 0, 0), (0, 0, 0)])

  # [b * b, places * a, places * a, I, O], then every axis split into place and pixel.
  stacked = jnp.stack([shifted(i, j) for i in range(b) for j in range(b)])
  stacked = stacked.reshape(b * b, places[0], a, places[1], a, channels, features)
  stacked = stacked.transpose(1, 3, 2, 4, 5, 0, 6)
  return stacked.reshape(*places, a * a * channels, b * b * features)


def convolve(x: jax.Array, w: jax.Array, bias: jax.Array | None, packed: PackedConv) -> jax.Array:
  """Convolves packed pixels.

  Args:
    x: [N, h, w, in_block^2 * I] packed input.
    w: [k, k, I, O] weights of the plain convolution.
    bias: [O], or None.
    packed: from `plan`.

  Returns:
    [N, h, w, out_block^2 * O], the packed output of the plain convolution.
  """
  pads = [packed.reach(before) for before in packed.before]
  out = conv_lib.conv(x, pack_weight(w, packed), padding=pads)
  return out if bias is None else out + jnp.tile(bias, packed.out_block**2)
