"""Prepares a picture for a network, as the published evaluations did."""

import math
import os
import urllib.parse
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from nfnets import images, picture_files

# Of timm's evaluations, on bytes and antialiased; the others are of the published code.
ANTIALIASED_MODES = ('center', 'squash')
EVALUATION_MODES = (
  'resize_crop_32',
  'crop_resize',
  'resize_crop_0.875',
  'resize',
  *ANTIALIASED_MODES,
)
_PADDING = 32  # pixels that a picture of the evaluation size loses at its borders, in all

Picture = np.ndarray | bytes | str | os.PathLike | Image.Image | BinaryIO


def preprocess(image_or_bytes: Picture, size: int, mode: str = 'resize_crop_32') -> np.ndarray:
  """Prepares one picture for a network that was trained here or published by DeepMind.

  `preprocessing.Preprocessing` is the same for any set of weights.

  Args:
    image_or_bytes: uint8 or float32 [H, W, 3] on the scale 0..255, RGB; or an encoded picture; or
      anything else that `read_picture` takes.
    size: height and width of the result, in pixels.
    mode: one of EVALUATION_MODES, see `resize_for_evaluation`.

  Returns:
    float32 [size, size, 3], normalised with ImageNet's mean and standard deviation.

  Raises:
    OSError: a file cannot be read.
    ValueError: this is no picture, or the mode is unknown.
  """
  picture = read_picture(image_or_bytes, exact=mode in ANTIALIASED_MODES)
  return images.normalize(resize_for_evaluation(picture, size, mode))


def resize_for_evaluation(
  image: np.ndarray, size: int, mode: str = 'resize_crop_32', crop_share: float = 1.0
) -> np.ndarray:
  """Resizes and crops a picture in one of the published ways, all bicubic.

  Args:
    image: uint8 or float32 [H, W, 3].
    size: height and width of the result, in pixels.
    mode: 'resize_crop_32': to a square of size + 32, ignoring the aspect, then its centre.
      'crop_resize': the central square of size / (size + 32) of the shorter side, then resized.
      'resize_crop_0.875': to a square of size / 0.875, then its centre.
      'resize': the whole picture to the square.
      'center': the shorter side to size / crop_share, the aspect kept, then the centre.
      'squash': to a square of size / crop_share, ignoring the aspect, then its centre.
      The last two are timm's, antialiased and rounded to bytes; the others, DeepMind's, are not.
    crop_share: of the resized side that is kept, above 0, at most 1; 'center' and 'squash' use it.

  Returns:
    float32 [size, size, 3] on the scale of the input, not normalised.

  Raises:
    ValueError: the mode is unknown.
  """
  if mode == 'resize':
    return images.resize_bicubic(image, (size, size))
  if mode == 'crop_resize':
    return images.resize_bicubic(image, (size, size), box=padded_center_box(image.shape, size))
  if mode in ANTIALIASED_MODES:
    side = math.floor(size / crop_share)
    height, width = image.shape[:2]
    shorter = min(height, width) if mode == 'center' else None
    target = (
      (side, side) if shorter is None else (side * height // shorter, side * width // shorter)
    )
    resized = images.resize_antialiased(image, target).astype(np.float32)
    # Half pixels are rounded to even, as Python's round does.
    top, left = (round((length - size) / 2) for length in target)
  elif mode in ('resize_crop_32', 'resize_crop_0.875'):
    side = size + _PADDING if mode == 'resize_crop_32' else int(size / 0.875)
    resized = images.resize_bicubic(image, (side, side))
    top = left = (side - size + 1) // 2
  else:
    raise ValueError(f'unknown evaluation mode {mode!r}; choose one of {EVALUATION_MODES}')
  return resized[top : top + size, left : left + size]


def padded_share(size: int) -> float:
  """Returns which share of a side the published margin of 32 pixels leaves, at `size` pixels."""
  return size / (size + _PADDING)


def padded_center_box(shape: tuple[int, ...], size: int) -> tuple[int, int, int, int]:
  """Returns the (top, left, height, width) of the central square for an output of `size` pixels.

  Its side is size / (size + 32) of the shorter side of the picture, at least 1 pixel.

  Args:
    shape: (H, W, ...) of the picture, in pixels.
    size: the side that the square is to be resized to, in pixels.
  """
  height, width = shape[:2]
  # In float32, as published: the product is often a whole number, which float64 may just miss.
  side = max(1, int(np.float32(padded_share(size)) * np.float32(min(height, width))))
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def read_picture(picture: Picture, *, exact: bool = False) -> np.ndarray:
  """Reads a picture of any kind as an RGB array.

  Args:
    picture: a path; a URL, https://...; the bytes of an encoded file; a file open for reading
      bytes; a Pillow image; or an array [H, W], [H, W, 1], [H, W, 3] (RGB) or [H, W, 4] of bool,
      uint8, uint16 (the upper 8 bits count) or floats on the scale 0..255. Alpha is dropped and a
      file or Pillow image turned upright as its EXIF says.
    exact: how JPEG is decoded, see `images.decode`.

  Returns:
    uint8 [H, W, 3], or float32 for floats.

  Raises:
    OSError: the file cannot be read.
    ValueError: this is no picture.
  """
  if is_address(picture):
    picture = picture_files.download(picture)
  elif isinstance(picture, str | os.PathLike):
    picture = picture_files.read(picture)
  elif hasattr(picture, 'read') and not isinstance(picture, Image.Image):
    picture = picture_files.read_open(picture)
  if isinstance(picture, bytes | bytearray | memoryview):
    return images.decode(bytes(picture), exact=exact)
  if isinstance(picture, Image.Image):
    picture = _pillow_array(picture)
  array = np.asarray(picture)
  if array.ndim == 2:
    array = array[..., None]
  if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
    is_channels_first = array.ndim == 3 and array.shape[0] in (1, 3, 4)
    hint = ': move the channels to the end, x.transpose(1, 2, 0)' if is_channels_first else ''
    raise ValueError(
      f'a picture is an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got {array.shape}{hint}.'
    )
  array = _on_scale(array)
  return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[..., :3]


def is_address(picture: object) -> bool:
  """Whether this is text that begins as http:// or https://."""
  if not isinstance(picture, str):
    return False
  return urllib.parse.urlsplit(picture).scheme.lower() in ('http', 'https')


def _pillow_array(image: Image.Image) -> np.ndarray:
  """The pixels, upright, of a Pillow image of any mode that has a known scale."""
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I;16'):
    return np.asarray(image).astype(np.uint16)  # in this machine's byte order
  if image.mode in ('I', 'F'):
    raise ValueError(
      f'a Pillow image of mode {image.mode!r} has no known scale: convert it to L or RGB first.'
    )
  return np.asarray(image.convert('RGB'))


def _on_scale(array: np.ndarray) -> np.ndarray:
  """The pixels on the scale 0..255, as uint8 or float32."""
  if array.dtype == np.uint8:
    return array
  if array.dtype == np.uint16:
    return (array >> 8).astype(np.uint8)
  if array.dtype == np.bool_:
    return array * np.uint8(255)
  if not np.issubdtype(array.dtype, np.floating):
    raise ValueError(f'pixels must be uint8, uint16, bool or floats, got {array.dtype}.')
  if not np.isfinite(array).all():
    raise ValueError('some pixels are not finite numbers.')
  if 0 < np.abs(array).max() <= 1:
    raise ValueError('the pixels are floats up to 1: multiply them by 255, the scale is 0..255.')
  return array.astype(np.float32)
