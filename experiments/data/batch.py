"""The one layout of a batch, from the input pipeline to the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp  # NumPy alone knows no bfloat16
import numpy as np

from nfnets import images as pictures
from nfnets import sides
from nfnets.execution import space_to_depth
from nfnets.sides import Sides


class ImageLayout(NamedTuple):
  """How the images of a batch lie in memory: those of a train step as its stem wants them.

  Attributes:
    block: side of the squares of pixels of a place, as in `nfnets.execution.SpaceToDepth`.
    dtype: 'float32' or 'bfloat16', normalised; or 'uint8': the device normalises them.
    mean: for 'uint8', what it subtracts of each channel, on the scale 0..1.
    stddev: what it divides by, likewise.
  """

  block: int = 1
  dtype: str = 'float32'
  mean: tuple[float, float, float] = pictures.IMAGENET_MEAN
  stddev: tuple[float, float, float] = pictures.IMAGENET_STDDEV

  @property
  def is_bytes(self) -> bool:
    """Whether the images are not normalised yet."""
    return self.dtype == 'uint8'

  def shape(self, size: Sides, channels: int = 3) -> tuple[int, int, int]:
    """That of an image [*size, channels]."""
    height, width = sides.pair(size)
    return height // self.block, width // self.block, channels * self.block**2

  def empty(self, count: int, size: Sides, channels: int = 3) -> np.ndarray:
    """Returns room for so many images [*size, channels]."""
    return np.empty((count, *self.shape(size, channels)), jnp.dtype(self.dtype))

  def room(self, out: np.ndarray) -> np.ndarray:
    """Returns where to make an image [H, W, C] of which `store` then fills `out`.

    uint8 or, normalised, float32; `out` itself if nothing is left to do.
    """
    made = np.uint8 if self.is_bytes else np.float32
    if self.block == 1 and out.dtype == made:
      return out
    height, width, channels = out.shape
    return np.empty((height * self.block, width * self.block, channels // self.block**2), made)

  def store(self, image: np.ndarray, out: np.ndarray) -> None:
    """Writes an image [H, W, C], of the dtype that `room` has, into out, of this layout."""
    if image is not out:
      rounded = image.astype(out.dtype, copy=False)
      out[...] = space_to_depth.pack(rounded[None], self.block)[0]

  def restore(self, images: np.ndarray) -> np.ndarray:
    """Returns images [..., *shape] of this layout as [..., H, W, C] float32, normalised."""
    images = np.asarray(images)
    if self.block > 1:
      *lead, height, width, channels = images.shape
      flat = space_to_depth.unpack(images.reshape(-1, height, width, channels), self.block)
      images = flat.reshape(*lead, *flat.shape[1:])
    if self.is_bytes:
      return pictures.normalize(images, mean=self.mean, stddev=self.stddev)
    return images.astype(np.float32, copy=False)

  def for_network(
    self, images: jax.Array, dtype: jnp.dtype
  ) -> jax.Array | space_to_depth.SpaceToDepth:
    """Returns images [N, *shape] of this layout as a network takes them, on the device.

    Bytes give the same numbers as `images.normalize` on the host, bit for bit on a CPU.
    """
    if self.is_bytes:
      count = images.shape[-1] // 3
      mean, stddev = (
        np.tile(pictures.on_byte_scale(values), count) for values in (self.mean, self.stddev)
      )
      pixels = images.astype(jnp.int32)
      # Of one divisor for many numbers XLA takes the inverse, and its products are rounded
      # otherwise than quotients are. It does not know that bytes end at 255.
      divisor = stddev + (pixels >> 8).astype(jnp.float32)
      images = (pixels.astype(jnp.float32) - mean) / divisor
    images = images.astype(dtype)
    return space_to_depth.SpaceToDepth(images, self.block) if self.block > 1 else images


NATURAL_LAYOUT = ImageLayout()


class Batch(NamedTuple):
  """Always complete. D is the number of local devices, B the number of examples on each.

  An unmixed example has mix_ratio 1; its mix_label is then ignored (and equals its label).
  """

  # [D, B, H, W, C] float32, normalised; or as its ImageLayout says. C is 3 of pictures and 1 of
  # spectrograms [time, mel].
  images: np.ndarray
  labels: np.ndarray  # [D, B] int32
  mix_labels: np.ndarray  # [D, B] int32
  mix_ratio: np.ndarray  # [D, B] float32, the weight of `labels` in 0..1
  mask: np.ndarray  # [D, B] float32, 1 for a real example and 0 for padding
