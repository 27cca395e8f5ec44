"""Pictures as arrays: decoding bytes, the exact bicubic resize, normalisation.

The resize follows TensorFlow's `tf.image.resize(method='bicubic', antialias=False)`, with which the
published networks were trained; OpenCV's and Pillow's bicubic filters give other pixels.
"""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import scipy.sparse
from PIL import Image

from nfnets import jpeg_decoder, pillow_decoder

# Of the ImageNet training pictures, on the 0..1 scale, in RGB order.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STDDEV = (0.229, 0.224, 0.225)

SHRINKS = (1, 2, 4, 8)  # by which `decode` can divide the sides of a JPEG
MAX_PIXELS = 2**27  # 400 MB of RGB: above any camera, below a decompression bomb

_KEYS_A = -0.5  # Keys (1981), "Cubic convolution interpolation", third-order accurate
_TABLE_SIZE = 1024  # TensorFlow rounds positions to this fraction of a pixel


def decode(data: bytes, *, exact: bool = False, shrink: int = 1) -> np.ndarray:
  """Decodes a picture; the format follows from the content, not from any file name.

  The formats are JPEG, PNG, WebP, GIF, BMP, TIFF and PPM (PBM and PGM as well); only the first
  frame is used. The colours are those that Pillow shows, rotated as EXIF says: grey, palettes and
  CMYK become RGB, alpha is dropped. Apart from the orientation, which they ignore, the pixels of a
  grey or YCbCr JPEG equal those of TensorFlow's default decoder bit for bit or, if `exact`, those
  of Pillow. Of 16-bit samples the upper 8 bits are kept, as TensorFlow does.

  A damaged file is used if at least half of its rows were decoded without a gap. A row counts only
  if it does not depend on missing data: in a progressive JPEG or an interlaced file, if it has all
  its passes.

  Args:
    data: the encoded picture.
    exact: whether the cosine transform of a JPEG is computed accurately, as Pillow does, instead of
      quickly, as TensorFlow does: on average 1.0 to 1.3 of 255 apart.
    shrink: one of SHRINKS; a JPEG comes with its sides divided by it, rounded up, which is quicker
      than decoding all of it. Other formats come whole.

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    ValueError: the data are empty, no picture of these formats, more than half damaged, of more
      than 16 bits a sample, or hold more than MAX_PIXELS pixels; or `shrink` is none of SHRINKS.
  """
  if shrink not in SHRINKS:
    raise ValueError(f'shrink must be one of {SHRINKS}, got {shrink!r}')
  if not data:
    raise ValueError('the picture is empty (0 bytes); expected an encoded JPEG or PNG')
  if data.startswith(jpeg_decoder.MAGIC):
    height, width, colorspace = jpeg_decoder.read_header(data)
    _check_size(height, width)
    least = (0, 0) if shrink == 1 else (-(-height // shrink), -(-width // shrink))
    image, rows = jpeg_decoder.decode(data, colorspace, exact=exact, least=least)
    kind, orientation = 'JPEG', jpeg_decoder.read_orientation(data)
  else:
    picture = pillow_decoder.open_picture(data)
    _check_size(picture.height, picture.width)
    image, rows = pillow_decoder.decode(data, picture)
    kind, orientation = picture.format, pillow_decoder.read_orientation(picture)
  if rows is not None and 2 * _longest_run(rows) < len(rows):
    raise ValueError(
      f'more than half of the {kind} picture is missing (corrupt, cut off); replace the file'
    )
  return _upright(image, orientation)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
  """Returns the (height, width) in pixels that `decode` gives a JPEG, from its header alone.

  None for other formats.

  Raises:
    ValueError: the header is corrupt or cut off, or there are more than MAX_PIXELS pixels or none.
  """
  if not data.startswith(jpeg_decoder.MAGIC):
    return None
  height, width, _ = jpeg_decoder.read_header(data)
  _check_size(height, width)
  is_turned = jpeg_decoder.read_orientation(data) >= 5
  return (width, height) if is_turned else (height, width)


def _check_size(height: int, width: int) -> None:
  if not 1 <= height * width <= MAX_PIXELS:
    raise ValueError(
      f'the picture has {width} x {height} pixels; expected 1 to {MAX_PIXELS}: reduce it first'
    )


def _longest_run(values: np.ndarray) -> int:
  """Returns how many values of a bool [N] are true one after the other, at most."""
  changes = np.flatnonzero(np.diff(values, prepend=False, append=False))
  return int((changes[1::2] - changes[::2]).max(initial=0))


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
  """Turns and mirrors a picture that was stored in an orientation of EXIF 2.32, section 4.6.4."""
  if orientation >= 5:
    image = cv2.transpose(image)
  flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)  # 0: rows, 1: columns, -1: both
  return image if flip is None else cv2.flip(image, flip)


def resize_bicubic(
  image: np.ndarray,
  size: tuple[int, int],
  box: tuple[int, int, int, int] | None = None,
  mirror: bool = False,
) -> np.ndarray:
  """Resizes a picture, or one box of it, with TensorFlow's bicubic kernel.

  The cubic convolution kernel of Keys with a = -0.5, half-pixel centres, no antialiasing; taps
  outside the box are ignored and the others are scaled to sum to one.

  Args:
    image: uint8 or float32 [H, W, 3].
    size: (height, width) of the result, in pixels.
    box: (top, left, height, width) in pixels; pixels outside it have no influence. None: all.
    mirror: exchange left and right, at no cost.

  Returns:
    float32 [height, width, 3] on the scale of the input; it may overshoot (not clipped).

  Raises:
    ValueError: the image is not [H, W, 3], or the box does not lie in it.
  """
  image = _boxed(image, size, box)
  (in_height, in_width), (out_height, out_width) = image.shape[:2], size
  if (in_height, in_width) == (out_height, out_width):
    return image[:, :: -1 if mirror else 1].astype(np.float32, order='C')
  # Each pass is a sparse matrix times [pixels along the axis, all other values], so the columns
  # are resized in a transposed image. Several times faster than gathers or dense products.
  columns = cv2.transpose(image).reshape(in_width, in_height * 3).astype(np.float32, copy=False)
  columns = _resize_matrix(in_width, out_width, mirror) @ columns
  rows = cv2.transpose(columns.reshape(out_width, in_height, 3)).reshape(in_height, out_width * 3)
  rows = _resize_matrix(in_height, out_height, False) @ rows
  return rows.reshape(out_height, out_width, 3)


def resize_opencv(
  image: np.ndarray,
  size: tuple[int, int],
  box: tuple[int, int, int, int] | None = None,
  mirror: bool = False,
) -> np.ndarray:
  """Resizes with OpenCV's bicubic kernel (a = -0.75): faster, but not the published pixels.

  Arguments, result and errors are those of `resize_bicubic`; a uint8 picture gives whole numbers
  in 0..255.
  """
  image = cv2.resize(_boxed(image, size, box), size[::-1], interpolation=cv2.INTER_CUBIC)
  return image[:, :: -1 if mirror else 1].astype(np.float32, order='C')


def resize_antialiased(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a picture with Pillow's bicubic filter, which averages over all that a pixel covers.

  Args:
    image: [H, W, 3], rounded to bytes if it is not uint8.
    size: (height, width) of the result, in pixels.

  Returns:
    uint8 [height, width, 3].

  Raises:
    ValueError: the image is not [H, W, 3].
  """
  image = _boxed(image, size, None)
  if image.dtype != np.uint8:
    image = np.rint(image).clip(0, 255).astype(np.uint8)
  resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
  return np.asarray(resized)


def _boxed(
  image: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int] | None
) -> np.ndarray:
  """Checks the arguments of a resize and returns the box as a view."""
  if image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(f'a resize takes an image [H, W, 3], got the shape {image.shape}')
  if box is not None:
    top, left, height, width = box
    if min(top, left) < 0 or top + height > image.shape[0] or left + width > image.shape[1]:
      raise ValueError(f'the box {box} leaves the image {image.shape}; it must lie within it')
    image = image[top : top + height, left : left + width]
  if min(*image.shape[:2], *size) < 1:
    raise ValueError(f'cannot resize {image.shape[:2]} to {size}: every side must be at least 1')
  return image


@functools.lru_cache(maxsize=4096)
def _resize_matrix(in_size: int, out_size: int, mirror: bool) -> scipy.sparse.csr_array:
  """Returns the float32 [out_size, in_size] weights of a resize along one axis, 4 per row."""
  scale = np.float32(in_size / out_size)
  position = (np.arange(out_size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
  first = np.floor(position)
  offset = np.rint((position - first) * np.float32(_TABLE_SIZE)) / _TABLE_SIZE
  taps = np.arange(-1, 3)
  weights = _keys_kernel(np.abs(offset[:, None] - taps))
  indices = first[:, None].astype(np.int64) + taps
  weights[(indices < 0) | (indices >= in_size)] = 0
  weights /= weights.sum(axis=1, keepdims=True)
  rows = np.repeat(np.arange(out_size)[:: -1 if mirror else 1], 4)
  kept = weights.ravel() != 0
  entries = (weights.ravel()[kept], (rows[kept], indices.ravel()[kept]))
  return scipy.sparse.csr_array(entries, shape=(out_size, in_size), dtype=np.float32)


def _keys_kernel(distance: np.ndarray) -> np.ndarray:
  """Keys' cubic convolution kernel at distances >= 0, in pixels."""
  near = ((_KEYS_A + 2) * distance - (_KEYS_A + 3)) * distance**2 + 1
  far = ((_KEYS_A * distance - 5 * _KEYS_A) * distance + 8 * _KEYS_A) * distance - 4 * _KEYS_A
  return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def normalize(
  images: np.ndarray,
  out: np.ndarray | None = None,
  *,
  mean: Sequence[float] = IMAGENET_MEAN,
  stddev: Sequence[float] = IMAGENET_STDDEV,
) -> np.ndarray:
  """Returns (images / 255 - mean) / stddev.

  Args:
    images: [..., W, 3] on the scale 0..255, RGB.
    out: float32 of the same shape, C-contiguous, to take the result. None: a new array.
    mean: of each channel, on the scale 0..1.
    stddev: standard deviation of each channel, on the same scale.

  Returns:
    float32, the same shape; `out` itself if given.
  """
  if out is None:
    out = np.empty(images.shape, np.float32)
  # Rows of W * 3 values instead of 3: numpy's inner loop is then long enough to be quick.
  width = images.shape[-2]
  shape = (*images.shape[:-2], width * 3)
  rows = out.reshape(shape)
  mean_row, stddev_row = (np.tile(on_byte_scale(values), width) for values in (mean, stddev))
  np.subtract(images.reshape(shape), mean_row, rows, dtype=np.float32)
  np.divide(rows, stddev_row, rows)
  return out


def on_byte_scale(values: Sequence[float]) -> np.ndarray:
  """Returns numbers on the scale 0..1 as float32 on the scale 0..255."""
  return np.float32([255 * value for value in values])
