"""Pictures of every format except JPEG as arrays, decoded by Pillow."""

import ctypes
import functools
import io
import logging
import warnings

import numpy as np
from PIL import (
  BmpImagePlugin,
  ExifTags,
  GifImagePlugin,
  Image,
  ImageFile,
  PngImagePlugin,
  PpmImagePlugin,
  TiffImagePlugin,
  WebPImagePlugin,
)

# How a file begins ('?': any byte) -> what reads it. Formats that are not listed are not tried.
_READERS = (
  (b'\x89PNG\r\n\x1a\n', PngImagePlugin.PngImageFile),
  (b'RIFF????WEBP', WebPImagePlugin.WebPImageFile),
  (b'GIF87a', GifImagePlugin.GifImageFile),
  (b'GIF89a', GifImagePlugin.GifImageFile),
  (b'BM', BmpImagePlugin.BmpImageFile),
  (b'II*\0', TiffImagePlugin.TiffImageFile),
  (b'MM\0*', TiffImagePlugin.TiffImageFile),
  (b'II+\0', TiffImagePlugin.TiffImageFile),  # of more than 4 GB
  (b'MM\0+', TiffImagePlugin.TiffImageFile),
  *((b'P%d' % kind, PpmImagePlugin.PpmImageFile) for kind in range(1, 7)),
)
_SAVE_AS = 'save it as JPEG, PNG, WebP, GIF, BMP, TIFF or PPM'


def open_picture(data: bytes) -> ImageFile.ImageFile:
  """Reads the header of a picture: `format`, `height` and `width` (pixels) of what is returned.

  Raises:
    ValueError: the data are not a picture of a known format, or the header is corrupt.
  """
  reader = next((reader for start, reader in _READERS if _begins(data, start)), None)
  if reader is None:
    raise ValueError(f'the data are not a picture of a known format; if it is one, {_SAVE_AS}')
  _be_quiet()
  try:
    return reader(io.BytesIO(data))
  except MemoryError:
    raise
  except Exception:  # Pillow raises many types, SyntaxError included
    raise ValueError(
      f'the {reader.format} header is corrupt, cut off or of an unknown kind; replace the file'
    ) from None


def decode(data: bytes, picture: ImageFile.ImageFile) -> tuple[np.ndarray, np.ndarray | None]:
  """Decodes the first frame to RGB; alpha is dropped, 16-bit samples keep their upper 8 bits.

  Args:
    data: the file.
    picture: from `open_picture`; it is used up.

  Returns:
    The pixels, uint8 [H, W, 3], and which rows were decoded, bool [H]; None: all. A complete
    TIFF file is upright already.

  Raises:
    ValueError: the samples have more than 16 bits or are of an unknown kind.
  """
  rows = None
  if not _load(picture):
    rows = _decoded_rows(data)
    if not rows.any():
      return np.zeros((picture.height, picture.width, 3), np.uint8), np.zeros(picture.height, bool)
  return _to_rgb(picture), rows


def read_orientation(picture: ImageFile.ImageFile) -> int:
  """Returns the orientation that EXIF, or else XMP, gives a decoded picture: 1 to 8."""
  try:
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
  except Exception:  # of a damaged directory
    return 1
  return orientation if orientation in range(1, 9) else 1


def _begins(data: bytes, start: bytes) -> bool:
  return len(data) >= len(start) and all(
    wanted in (byte, ord('?')) for wanted, byte in zip(start, data, strict=False)
  )


def _load(picture: ImageFile.ImageFile) -> bool:
  """Decodes into `picture`; False if incomplete: the rest keeps its earlier value."""
  try:
    picture.load()
  except MemoryError:
    raise
  except Exception:  # Pillow's decoders raise many types
    picture.tile = []  # so that what there is can be read
    if picture._im is not None:
      picture._size = picture.im.size  # a TIFF file's is that of the upright picture before
    return False
  return True


def _decoded_rows(data: bytes) -> np.ndarray:
  """Returns which rows a damaged picture has: those that do not depend on an earlier value."""
  first, second = (_decode_over(data, value) for value in (0, 1))
  same = first == second
  return same.reshape(len(same), -1).all(axis=1)


def _decode_over(data: bytes, value: int) -> np.ndarray:
  """Decodes a damaged picture into an image of one value; returns the samples as they are."""
  picture = open_picture(data)
  prepare = picture.load_prepare

  def prepare_with_value() -> None:
    prepare()
    picture.im = Image.new(picture.im.mode, picture.im.size, value).im

  picture.load_prepare = prepare_with_value
  _load(picture)
  try:
    return np.asarray(picture)
  except MemoryError:
    raise
  except Exception:  # it did not come as far as to have an image
    return np.full((picture.height, picture.width), value)


def _to_rgb(picture: ImageFile.ImageFile) -> np.ndarray:
  if picture.mode.startswith('I;16') or (picture.mode, picture.format) == ('I', 'PPM'):
    grey = (np.asarray(picture) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
  picture.info.pop('transparency', None)  # not to be carried over, which can fail
  try:
    if picture.mode in ('I', 'F'):  # of no known scale
      raise ValueError
    return np.array(picture.convert('RGB'))
  except ValueError:
    raise ValueError(
      f'the {picture.format} picture is of the kind {picture.mode}, not of 8 or 16 bits a sample '
      'in grey, RGB or CMYK; save it as PNG'
    ) from None


@functools.cache
def _be_quiet() -> None:
  """Keeps what libtiff and Pillow print about damaged files off the terminal."""
  warnings.filterwarnings('ignore', module=r'PIL\.')
  logging.getLogger('PIL').addHandler(logging.NullHandler())
  for name in ('TIFFSetErrorHandler', 'TIFFSetWarningHandler'):
    try:  # found among the libraries that Pillow is linked with
      set_handler = ctypes.CDLL(Image.core.__file__)[name]
    except (AttributeError, OSError, TypeError):  # Pillow was built otherwise
      return
    set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
    set_handler(None)
