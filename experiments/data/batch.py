"""The one layout of a batch, from the input pipeline to the device."""

from typing import NamedTuple

import jax.numpy as jnp  # NumPy alone knows no bfloat16
import numpy as np

from nfnets import sides
from nfnets.execution import space_to_depth
from nfnets.sides import Sides


class ImageLayout(NamedTuple):
  """How the images of a batch lie in memory: those of a train step as its stem wants them.

  Attributes:
    block: side of the squares of pixels of a place, as in `nfnets.execution.SpaceToDepth`.
    dtype: 'float32' or 'bfloat16'.
  """

  block: int = 1
  dtype: str = 'float32'

  def shape(self, size: Sides, channels: int = 3) -> tuple[int, int, int]:
    """That of an image [*size, channels]."""
    height, width = sides.pair(size)
    return height // self.block, width // self.block, channels * self.block**2

  def empty(self, count: int, size: Sides, channels: int = 3) -> np.ndarray:
    """Returns room for so many images [*size, channels]."""
    return np.empty((count, *self.shape(size, channels)), jnp.dtype(self.dtype))

  def store(self, image: np.ndarray, out: np.ndarray) -> None:
    """Writes an image [H, W, C] float32 into out, of this layout's shape and dtype."""
    rounded = image.astype(out.dtype, copy=False)
    out[...] = space_to_depth.pack(rounded[None], self.block)[0]

  def restore(self, images: np.ndarray) -> np.ndarray:
    """Returns images [..., *shape] of this layout as [..., H, W, C] float32."""
    if self.block == 1:
      return np.asarray(images, np.float32)
    *lead, height, width, channels = images.shape
    flat = np.asarray(images, np.float32).reshape(-1, height, width, channels)
    restored = space_to_depth.unpack(flat, self.block)
    return restored.reshape(*lead, *restored.shape[1:])


NATURAL_LAYOUT = ImageLayout()


class Batch(NamedTuple):
  """Always complete. D is the number of local devices, B the number of examples on each.

  An unmixed example has mix_ratio 1; its mix_label is then ignored (and equals its label).
  """

  # [D, B, H, W, C] float32, normalised; a train step's in its ImageLayout. C is 3 of pictures and 1
  # of spectrograms [time, mel].
  images: np.ndarray
  labels: np.ndarray  # [D, B] int32
  mix_labels: np.ndarray  # [D, B] int32
  mix_ratio: np.ndarray  # [D, B] float32, the weight of `labels` in 0..1
  mask: np.ndarray  # [D, B] float32, 1 for a real example and 0 for padding
