"""Pictures as arrays: decoding bytes, the exact bicubic resize, normalisation.

The resize follows TensorFlow's `tf.image.resize(method='bicubic', antialias=False)`, with which the
published networks were trained; OpenCV's and Pillow's bicubic filters give other pixels.
"""

import functools
import io

import cv2
import numpy as np
import scipy.sparse
import simplejpeg
from PIL import Image

# Of the ImageNet training pictures, on the 0..255 scale, in RGB order.
MEAN_RGB = (0.485 * 255, 0.456 * 255, 0.406 * 255)
STDDEV_RGB = (0.229 * 255, 0.224 * 255, 0.225 * 255)

MAX_PIXELS = 2**27  # 400 MB of RGB: above any camera, below a decompression bomb

_JPEG_MAGIC = b'\xff\xd8\xff'
_KEYS_A = -0.5  # Keys (1981), "Cubic convolution interpolation", third-order accurate
_TABLE_SIZE = 1024  # TensorFlow rounds positions to this fraction of a pixel


def decode(data: bytes) -> np.ndarray:
  """Decodes a picture; the format follows from the content, not from any file name.

  JPEG pixels equal those of TensorFlow's default decoder bit for bit. Alpha is dropped, 16-bit
  channels keep their upper 8 bits, grey and palettes become RGB, an EXIF orientation is ignored
  (all as TensorFlow does).

  Args:
    data: the encoded picture: JPEG, or what OpenCV reads (PNG, WebP, BMP, TIFF, ...).

  Returns:
    uint8 [H, W, 3], RGB.

  Raises:
    ValueError: the data are empty, corrupt, no picture, cut off so that less than half is left, or
      hold more than MAX_PIXELS pixels.
  """
  if not data:
    raise ValueError('the picture is empty (0 bytes); expected an encoded JPEG or PNG')
  if data[:3] == _JPEG_MAGIC:
    return _decode_jpeg(data)
  return _decode_other(data)


def _decode_jpeg(data: bytes) -> np.ndarray:
  try:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
  except (ValueError, KeyError):  # KeyError: a colour space that does not exist
    raise ValueError('the JPEG header is corrupt or cut off; replace the file') from None
  _check_size(height, width)
  output = 'CMYK' if colorspace in ('CMYK', 'YCCK') else 'RGB'
  try:
    try:
      image = simplejpeg.decode_jpeg(data, output, fastdct=True)
    except ValueError as error:
      # A recoverable fault, e.g. stray bytes: the lenient decoder returns what there is.
      image = simplejpeg.decode_jpeg(data, output, fastdct=True, strict=False)
      if 'remature' in str(error) and _grey_tail(image) > height / 2:
        raise ValueError('more than half of it is cut off') from None
  except ValueError as error:
    raise ValueError(f'the JPEG cannot be decoded ({error}); replace the file') from None
  return _cmyk_to_rgb(image, inverted=b'Adobe' in data[:65536]) if output == 'CMYK' else image


def _grey_tail(image: np.ndarray) -> int:
  """Counts the rows at the bottom that the decoder filled for want of data."""
  filled = (image == image[-1:, -1:]).all(axis=(1, 2))
  return len(filled) if filled.all() else int(np.argmin(filled[::-1]))


def _cmyk_to_rgb(image: np.ndarray, inverted: bool) -> np.ndarray:
  """Plain conversion without a colour profile; Adobe writes its CMYK inverted."""
  ink_free = image.astype(np.uint16) if inverted else 255 - image.astype(np.uint16)
  return (ink_free[..., :3] * ink_free[..., 3:] // 255).astype(np.uint8)


def _decode_other(data: bytes) -> np.ndarray:
  try:
    with Image.open(io.BytesIO(data)) as header:  # reads the header only
      kind, (width, height) = header.format, header.size
  except Image.DecompressionBombError:
    raise ValueError(f'the picture has more than {MAX_PIXELS} pixels; reduce it first') from None
  except Exception:  # Pillow raises many types, SyntaxError included
    raise ValueError('the data are no picture of a known format; expected JPEG or PNG') from None
  _check_size(height, width)
  try:
    image = cv2.imdecode(
      np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    )
  except cv2.error:
    image = None
  if image is None:
    raise ValueError(
      f'the {kind} picture is corrupt, cut off or not of 8 or 16 bits a sample; replace the file, '
      'or save it as PNG'
    )
  return image


def _check_size(height: int, width: int) -> None:
  if not 1 <= height * width <= MAX_PIXELS:
    raise ValueError(
      f'the picture has {width} x {height} pixels; expected 1 to {MAX_PIXELS}: reduce it first'
    )


def resize_bicubic(
  image: np.ndarray,
  size: tuple[int, int],
  box: tuple[int, int, int, int] | None = None,
  mirror: bool = False,
) -> np.ndarray:
  """Resizes a picture, or one box of it, with TensorFlow's bicubic kernel.

  The cubic convolution kernel of Keys with a = -0.5, half-pixel centres, no antialiasing; taps
  outside the box count nothing and the others are scaled to sum to one.

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
  # are resized in a transposed image. Several times quicker than gathers or dense products.
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
  """Resizes with OpenCV's bicubic kernel (a = -0.75): quicker, but not the published pixels.

  Arguments, result and errors are those of `resize_bicubic`; a uint8 picture gives whole numbers
  in 0..255.
  """
  image = cv2.resize(_boxed(image, size, box), size[::-1], interpolation=cv2.INTER_CUBIC)
  return image[:, :: -1 if mirror else 1].astype(np.float32, order='C')


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


def normalize(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
  """Returns (images - MEAN_RGB) / STDDEV_RGB.

  Args:
    images: [..., W, 3] on the scale 0..255, RGB.
    out: float32 of the same shape, C-contiguous, to take the result. None: a new array.

  Returns:
    float32, the same shape; `out` itself if given.
  """
  if out is None:
    out = np.empty(images.shape, np.float32)
  # Rows of W * 3 values instead of 3: numpy's inner loop is then long enough to be quick.
  width = images.shape[-2]
  shape = (*images.shape[:-2], width * 3)
  rows = out.reshape(shape)
  np.subtract(images.reshape(shape), np.tile(np.float32(MEAN_RGB), width), rows, dtype=np.float32)
  np.divide(rows, np.tile(np.float32(STDDEV_RGB), width), rows)
  return out
