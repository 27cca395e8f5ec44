"""From a picture to what a network takes, as the published evaluations did it."""

import numpy as np

from nfnets import images

EVALUATION_MODES = ('resize_crop_32', 'crop_resize', 'resize_crop_0.875', 'resize')
_PADDING = 32  # pixels that a picture of the evaluation size loses at its borders, in all


def preprocess(
  image_or_bytes: np.ndarray | bytes, size: int, mode: str = 'resize_crop_32'
) -> np.ndarray:
  """Makes the network's input of one picture.

  Args:
    image_or_bytes: uint8 or float32 [H, W, 3] on the scale 0..255, RGB; or an encoded picture.
    size: height and width of the result, in pixels.
    mode: one of EVALUATION_MODES, see `resize_for_evaluation`.

  Returns:
    float32 [size, size, 3], normalised.

  Raises:
    ValueError: the picture cannot be decoded, or the mode is unknown.
  """
  image = image_or_bytes
  if isinstance(image, bytes | bytearray | memoryview):
    image = images.decode(bytes(image))
  return images.normalize(resize_for_evaluation(image, size, mode))


def resize_for_evaluation(image: np.ndarray, size: int, mode: str = 'resize_crop_32') -> np.ndarray:
  """Resizes and crops a picture in one of the published ways, all bicubic.

  Args:
    image: uint8 or float32 [H, W, 3].
    size: height and width of the result, in pixels.
    mode: 'resize_crop_32': to a square of size + 32 whatever the aspect, then its centre.
      'crop_resize': the central square of size / (size + 32) of the shorter side, then resized.
      'resize_crop_0.875': to a square of size / 0.875, then its centre.
      'resize': the whole picture to the square.

  Returns:
    float32 [size, size, 3] on the scale of the input, not normalised.

  Raises:
    ValueError: the mode is unknown.
  """
  if mode == 'resize':
    return images.resize_bicubic(image, (size, size))
  if mode == 'crop_resize':
    return images.resize_bicubic(image, (size, size), box=padded_center_box(image.shape, size))
  if mode == 'resize_crop_32':
    resized_size = size + _PADDING
  elif mode == 'resize_crop_0.875':
    resized_size = int(size / 0.875)
  else:
    raise ValueError(f'unknown evaluation mode {mode!r}; choose one of {EVALUATION_MODES}')
  resized = images.resize_bicubic(image, (resized_size, resized_size))
  start = (resized_size - size + 1) // 2
  return resized[start : start + size, start : start + size]


def padded_center_box(shape: tuple[int, ...], size: int) -> tuple[int, int, int, int]:
  """Returns the (top, left, height, width) of the central square for an output of `size` pixels.

  Its side is size / (size + 32) of the shorter side of the picture, at least 1 pixel.

  Args:
    shape: (H, W, ...) of the picture, in pixels.
    size: the side that the square is to be resized to, in pixels.
  """
  height, width = shape[:2]
  # In float32, as published: the product is often a whole number, which float64 may just miss.
  side = max(1, int(np.float32(size / (size + _PADDING)) * np.float32(min(height, width))))
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side
