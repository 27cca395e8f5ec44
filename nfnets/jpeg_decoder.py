"""JPEG files as arrays, with the pixels of TensorFlow's default decoder, or of Pillow's."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import simplejpeg

MAGIC = b'\xff\xd8\xff'

# Markers: ITU T.81, table B.1.
_APP1, _START_OF_SCAN, _END_OF_IMAGE = 0xE1, 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE_FRAMES = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_CONTENT = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
# Coded data hold 0xff only before a zero or as a restart marker.
_SCAN_END = re.compile(rb'\xff+[\x01-\xcf\xd8-\xfe]|\xff*\Z')

_ORIENTATION = 0x0112  # EXIF 2.32, section 4.6.4
_INTEGER_SIZES = {1: 1, 3: 2, 4: 4}  # bytes of EXIF's types BYTE, SHORT and LONG
_XMP_HEADER = b'http://ns.adobe.com/xap/1.0/\0'
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

_NOISE = np.random.default_rng(0).integers(0, 255, 4096, np.uint8).tobytes()  # without 0xff
_MAX_SCANS = 500  # of a damaged file; libjpeg-turbo's tools set this limit as well


def read_header(data: bytes) -> tuple[int, int, str]:
  """Returns height and width in pixels, and the colour space, e.g. 'YCbCr' or 'CMYK'.

  Raises:
    ValueError: the header is corrupt or cut off.
  """
  try:
    height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data, strict=False)
  except (ValueError, KeyError):  # KeyError: a colour space that does not exist
    raise ValueError('the JPEG header is corrupt or cut off; replace the file') from None
  return height, width, colorspace


def decode(
  data: bytes, colorspace: str, *, exact: bool = False, least: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray | None]:
  """Decodes to RGB, ignoring the orientation.

  Args:
    data: the file.
    colorspace: from `read_header`. CMYK becomes RGB without a colour profile; it is read as Adobe
      writes it (inverted), with Adobe's marker or without, as Pillow does.
    exact: whether the inverse cosine transform is Pillow's accurate one instead of TensorFlow's
      fast one; for CMYK it is always Pillow's.
    least: (height, width) in pixels: the transform leaves the finest frequencies out for as small a
      picture as has so many of each. (0, 0): the whole picture.

  Returns:
    The pixels, uint8 [H, W, 3], and which rows were decoded, bool [H]; None: all.

  Raises:
    ValueError: nothing can be decoded.
  """
  is_cmyk = colorspace in ('CMYK', 'YCCK')
  options = {'colorspace': 'CMYK' if is_cmyk else 'RGB', 'fastdct': not (is_cmyk or exact)}
  options |= {'min_height': least[0], 'min_width': least[1]}
  rows = None
  try:
    image = simplejpeg.decode_jpeg(data, **options)
  except ValueError:  # a fault; the lenient decoder returns what there is
    image = _decode_leniently(data, options)
    rows = _decoded_rows(data, options, image)
  return _cmyk_to_rgb(image) if is_cmyk else image, rows


def _decode_leniently(data: bytes, options: Mapping[str, Any]) -> np.ndarray:
  try:
    return simplejpeg.decode_jpeg(data, **options, strict=False)
  except ValueError as error:
    raise ValueError(f'the JPEG cannot be decoded ({error}); replace the file') from None


def _cmyk_to_rgb(image: np.ndarray) -> np.ndarray:
  product = image[..., :3].astype(np.uint16) * image[..., 3:]
  return ((product + 127) // 255).astype(np.uint8)


def _decoded_rows(data: bytes, options: Mapping[str, Any], image: np.ndarray) -> np.ndarray:
  """Returns which rows do not depend on what is missing, bool [H].

  Noise is put after the coded data of every scan. The decoder reads it in place of missing data,
  and not at all if nothing is missing. Rows count from the top to the first that the noise changes.
  """
  rows = np.zeros(len(image), bool)
  segments = list(_segments(data))
  ends = [_coded_end(data, end) for marker, _, end in segments if marker == _START_OF_SCAN]
  if len(ends) > _MAX_SCANS or not _has_all_scans(data, segments):
    return rows
  parts = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
  parts[-1] = parts[-1] or b'\xff\xd9'
  try:
    noisy = _decode_leniently(_NOISE.join(parts), options)
  except ValueError:
    return rows
  unchanged = (noisy == image).all(axis=(1, 2))
  rows[: len(rows) if unchanged.all() else np.argmin(unchanged)] = True
  return rows


def _has_all_scans(data: bytes, segments: list[tuple[int, int, int]]) -> bool:
  """Whether a scan begins for every bit of every coefficient (ITU T.81, section G.1.1.1)."""
  missing: dict[int, np.ndarray] = {}  # component -> of each coefficient, the low bits to come
  progressive = False
  try:
    for marker, start, _ in segments:
      if marker in _FRAMES:
        progressive = marker in _PROGRESSIVE_FRAMES
        ids = data[start + 6 : start + 6 + 3 * data[start + 5] : 3]
        missing = {component: np.full(64, 16) for component in ids}
      elif marker == _START_OF_SCAN:
        count = data[start]
        first, last, bits = data[start + 1 + 2 * count : start + 4 + 2 * count]
        if not progressive:
          first, last, bits = 0, 63, 0
        for component in data[start + 1 : start + 1 + 2 * count : 2]:
          missing[component][first : last + 1] = bits & 15
  except (IndexError, KeyError, ValueError):
    return False
  return bool(missing) and not any(bits.any() for bits in missing.values())


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
  """Yields each marker with the start and the end of its content, of a scan's its header."""
  position = 2
  while (position := data.find(b'\xff', position)) >= 0 and position + 4 <= len(data):
    marker = data[position + 1]
    if marker == _END_OF_IMAGE:
      return
    if marker == 0xFF or marker in _WITHOUT_CONTENT:  # a fill byte, or nothing to skip
      position += 1 if marker == 0xFF else 2
      continue
    start = position + 4
    position += 2 + int.from_bytes(data[position + 2 : start])
    yield marker, start, position
    if marker == _START_OF_SCAN:
      position = _coded_end(data, position)


def _coded_end(data: bytes, start: int) -> int:
  """Returns the end of the coded data of a scan that begins at `start`."""
  return _SCAN_END.search(data, min(start, len(data))).start()


def read_orientation(data: bytes) -> int:
  """Returns the orientation that EXIF or else XMP gives a picture: 1 to 8; 1 if neither does."""
  exif = xmp = None
  for marker, start, end in _segments(data):
    if marker == _START_OF_SCAN:
      break
    if marker == _APP1 and exif is None and data.startswith(b'Exif\0\0', start):
      exif = _exif_orientation(data[start + 6 : end])
    elif marker == _APP1 and data.startswith(_XMP_HEADER, start):
      xmp = _XMP_ORIENTATION.search(data, start, end)
  if exif is None and xmp is not None:
    exif = int(xmp[1])
  return exif if exif in range(1, 9) else 1


def _exif_orientation(exif: bytes) -> int | None:
  """Returns the orientation in the first directory; None if there is none."""
  order = {b'II': 'little', b'MM': 'big'}.get(exif[:2])
  if order is None:
    return None
  directory = int.from_bytes(exif[4:8], order)
  count = int.from_bytes(exif[directory : directory + 2], order)
  for entry in range(directory + 2, min(directory + 2 + 12 * count, len(exif) - 11), 12):
    if int.from_bytes(exif[entry : entry + 2], order) == _ORIENTATION:
      kind = int.from_bytes(exif[entry + 2 : entry + 4], order)
      size = _INTEGER_SIZES.get(kind)
      return None if size is None else int.from_bytes(exif[entry + 8 : entry + 8 + size], order)
  return None
