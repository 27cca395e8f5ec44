"""Pictures of every format, mode and orientation, to compare what is decoded with Pillow.

python tests/nfnets/picture_matrix.py prints the largest difference of each.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image, ImageOps

ORIENTATION = 0x0112
_rng = np.random.default_rng(0)
_SMOOTH = cv2.GaussianBlur(_rng.integers(0, 256, (22, 34, 3), dtype=np.uint8), (0, 0), 4)
RGB = cv2.normalize(_SMOOTH, None, 0, 255, cv2.NORM_MINMAX)
GREY = RGB[..., 1]
DEEP = _rng.integers(0, 2**16, (*RGB.shape[:2], 4), dtype=np.uint16)
_ALPHA = _rng.integers(0, 256, GREY.shape, dtype=np.uint8)

_BASE = Image.fromarray(RGB)
_RGBA = Image.fromarray(np.dstack([RGB, _ALPHA]))
_PALETTE = _BASE.quantize(64)
_FRAMES = {'save_all': True, 'append_images': [_BASE.rotate(180), _BASE.rotate(90)]}


def encode(picture: Image.Image | np.ndarray, kind: str, **options) -> bytes:
  """The bytes of a file of the format `kind`."""
  buffer = io.BytesIO()
  picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
  """EXIF that says nothing but an orientation."""
  made = Image.Exif()
  made[ORIENTATION] = orientation
  return made


def _opencv(ending: str, samples: np.ndarray) -> bytes:
  order = [2, 1, 0, 3][: samples.shape[2]]
  return cv2.imencode(ending, samples[..., order])[1].tobytes()


def _segment(marker: int, content: bytes) -> bytes:
  return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


def _cmyk_jpeg(exif: Image.Exif, adobe: str, transform: int = 0) -> bytes:
  """A CMYK JPEG (YCCK with transform 2) whose Adobe marker is 'first', 'late' or 'none'."""
  data = encode(_BASE.convert('CMYK'), 'JPEG', quality=95, exif=exif)
  marker = re.search(rb'\xff\xee\x00\x0eAdobe.{7}', data, re.DOTALL)[0]
  rest = data.replace(marker, b'')[2:]
  marker = marker[:-1] + bytes([transform])
  profile = _segment(
    0xE2, b'ICC_PROFILE\0\1\1' + b'\0\0\2\x0cADBE\2\x10\0\0prtrCMYKLab ' + bytes(200)
  )
  long = _segment(0xE3, bytes(60_000)) * 3
  before = {'first': marker, 'late': profile + long + marker, 'none': profile}[adobe]
  return data[:2] + before + rest


def _gif_on_a_larger_screen() -> bytes:
  data = bytearray(encode(_PALETTE, 'GIF', transparency=3))
  data[6:10] = (RGB.shape[1] + 9).to_bytes(2, 'little') + (RGB.shape[0] + 5).to_bytes(2, 'little')
  return bytes(data)


def interlaced_png(pixels: np.ndarray) -> bytes:
  """A PNG of uint8 [H, W, 3] in Adam7's seven passes (PNG specification, section 8.2)."""
  height, width, _ = pixels.shape
  passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
  lines = [
    b'\0' + row.tobytes()
    for top, left, down, right in [*passes, (1, 0, 2, 1)]
    for row in pixels[top::down, left::right]
  ]
  chunks = [
    (b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 1)),
    (b'IDAT', zlib.compress(b''.join(lines), 0)),
    (b'IEND', b''),
  ]
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
    for kind, content in chunks
  )


Maker = Callable[[Image.Exif], bytes]


def _saved(picture: Image.Image, kind: str, **options) -> Maker:
  return lambda exif: encode(picture, kind, exif=exif, **options)


def _with_xmp(exif: Image.Exif) -> bytes:
  text = f'<x tiff:Orientation="{exif[ORIENTATION]}"/>'.encode()
  return encode(_BASE, 'JPEG', quality=95, xmp=text)


# What carries EXIF.
ORIENTED: dict[str, Maker] = {
  'JPEG grey': _saved(_BASE.convert('L'), 'JPEG', quality=95),
  'JPEG RGB 4:2:0': _saved(_BASE, 'JPEG', quality=95),
  'JPEG RGB 4:4:4': _saved(_BASE, 'JPEG', quality=95, subsampling=0),
  'JPEG progressive': _saved(_BASE, 'JPEG', quality=95, progressive=True),
  'JPEG not YCbCr': _saved(_BASE, 'JPEG', quality=95, keep_rgb=True),
  'JPEG orientation in XMP': _with_xmp,
  'JPEG CMYK, Adobe': lambda exif: _cmyk_jpeg(exif, 'first'),
  'JPEG CMYK, Adobe late': lambda exif: _cmyk_jpeg(exif, 'late'),
  'JPEG CMYK, ICC only': lambda exif: _cmyk_jpeg(exif, 'none'),
  'JPEG YCCK, Adobe': lambda exif: _cmyk_jpeg(exif, 'first', transform=2),
  'JPEG YCCK, Adobe late': lambda exif: _cmyk_jpeg(exif, 'late', transform=2),
  'PNG black and white': _saved(_BASE.convert('1'), 'PNG'),
  'PNG grey': _saved(_BASE.convert('L'), 'PNG'),
  'PNG grey, alpha': _saved(_RGBA.convert('LA'), 'PNG'),
  'PNG palette': _saved(_PALETTE, 'PNG'),
  'PNG palette, one transparent': _saved(_PALETTE, 'PNG', transparency=3),
  'PNG palette, alpha': _saved(_PALETTE, 'PNG', transparency=bytes(range(64))),
  'PNG RGB': _saved(_BASE, 'PNG'),
  'PNG RGB, one transparent': _saved(_BASE, 'PNG', transparency=tuple(RGB[0, 0].tolist())),
  'PNG RGBA': _saved(_RGBA, 'PNG'),
  'PNG grey 16 bits': _saved(Image.fromarray(DEEP[..., 0]), 'PNG'),
  'PNG animated': _saved(_BASE, 'PNG', **_FRAMES),
  'PNG animated, with a still': _saved(_BASE, 'PNG', default_image=True, **_FRAMES),
  'WebP RGB': _saved(_BASE, 'WebP', quality=90),
  'WebP RGB lossless': _saved(_BASE, 'WebP', lossless=True),
  'WebP RGBA lossless': _saved(_RGBA, 'WebP', lossless=True, exact=True),
  'WebP animated': _saved(_BASE, 'WebP', lossless=True, **_FRAMES),
  'TIFF black and white': _saved(_BASE.convert('1'), 'TIFF'),
  'TIFF black and white, G4': _saved(_BASE.convert('1'), 'TIFF', compression='group4'),
  'TIFF grey': _saved(_BASE.convert('L'), 'TIFF'),
  'TIFF grey, white is 0': _saved(_BASE.convert('L'), 'TIFF', tiffinfo={262: 0}),
  'TIFF grey, alpha': _saved(_RGBA.convert('LA'), 'TIFF'),
  'TIFF palette': _saved(_PALETTE, 'TIFF'),
  'TIFF RGB': _saved(_BASE, 'TIFF'),
  'TIFF RGB, LZW': _saved(_BASE, 'TIFF', compression='tiff_lzw'),
  'TIFF RGB, deflate': _saved(_BASE, 'TIFF', compression='tiff_adobe_deflate'),
  'TIFF RGB, JPEG': _saved(_BASE, 'TIFF', compression='jpeg'),
  'TIFF RGBA': _saved(_RGBA, 'TIFF'),
  'TIFF CMYK': _saved(_BASE.convert('CMYK'), 'TIFF'),
  'TIFF CMYK, LZW': _saved(_BASE.convert('CMYK'), 'TIFF', compression='tiff_lzw'),
  'TIFF grey 16 bits': _saved(Image.fromarray(DEEP[..., 0]), 'TIFF'),
  'TIFF many frames': _saved(_BASE, 'TIFF', **_FRAMES),
}  # fmt: skip

# What carries none, or is written by OpenCV.
PLAIN: dict[str, bytes] = {
  'PNG RGB 16 bits': _opencv('.png', DEEP[..., :3]),
  'PNG interlaced': interlaced_png(RGB),
  'PNG RGBA 16 bits': _opencv('.png', DEEP),
  'TIFF RGB 16 bits': _opencv('.tiff', DEEP[..., :3]),
  'TIFF RGBA 16 bits': _opencv('.tiff', DEEP),
  'GIF palette': encode(_PALETTE, 'GIF'),
  'GIF palette, one transparent': encode(_PALETTE, 'GIF', transparency=3),
  'GIF grey': encode(GREY, 'GIF'),
  'GIF not interlaced': encode(_PALETTE, 'GIF', interlace=0),
  'GIF on a larger screen': _gif_on_a_larger_screen(),
  'GIF animated': encode(_PALETTE, 'GIF', **_FRAMES),
  'BMP black and white': encode(_BASE.convert('1'), 'BMP'),
  'BMP grey': encode(GREY, 'BMP'),
  'BMP palette': encode(_PALETTE, 'BMP'),
  'BMP RGB': encode(RGB, 'BMP'),
  'BMP RGBA': encode(_RGBA, 'BMP'),
  'PBM black and white': encode(_BASE.convert('1'), 'PPM'),
  'PGM grey': encode(GREY, 'PPM'),
  'PGM grey 16 bits': encode(DEEP[..., 0], 'PPM'),
  'PPM RGB': encode(RGB, 'PPM'),
}


def cells(name: str) -> Iterator[tuple[int, bytes]]:
  """Yields every orientation that there is of a picture, and its data."""
  if name in PLAIN:
    yield 1, PLAIN[name]
  else:
    yield from ((orientation, ORIENTED[name](exif(orientation))) for orientation in range(1, 9))


def shown_by_pillow(data: bytes) -> np.ndarray:
  """What Pillow makes of a file, upright and in RGB, int [H, W, 3]."""
  picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  if picture.mode[0] == 'I':  # Pillow's RGB would clip 16 bits: 256 and more are white
    return np.repeat(np.asarray(picture).astype(int)[..., None] >> 8, 3, axis=2)
  return np.asarray(picture.convert('RGB')).astype(int)


def stored(name: str) -> np.ndarray | None:
  """The pixels that were encoded, where they are kept exactly: not by way of Pillow's decoders."""
  if name.startswith('JPEG') or name in ('WebP RGB', 'TIFF RGB, JPEG', 'GIF on a larger screen'):
    return None
  if 'CMYK' in name:
    return RGB
  if '16 bits' in name:
    samples = DEEP[..., :3] if 'RGB' in name else np.repeat(DEEP[..., :1], 3, axis=2)
    return samples >> 8
  if 'palette' in name or name in ('GIF animated', 'GIF not interlaced'):
    return np.asarray(_PALETTE.convert('RGB'))
  if 'black and white' in name:
    return np.asarray(_BASE.convert('1').convert('RGB'))
  if 'grey' in name:
    grey = GREY if name.startswith(('GIF', 'BMP', 'PGM')) else np.asarray(_BASE.convert('L'))
    return np.repeat(grey[..., None], 3, axis=2)
  return RGB


if __name__ == '__main__':
  from nfnets import images

  for name in (*ORIENTED, *PLAIN):
    largest = [np.abs(images.decode(x) - shown_by_pillow(x)).max() for _, x in cells(name)]
    print(f'{name:32}', *largest)
