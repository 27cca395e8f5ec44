import io
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import picture_matrix
import pytest
import simplejpeg
from PIL import Image

from nfnets import images

_RNG = np.random.default_rng(0)
_PICTURE = cv2.GaussianBlur(_RNG.integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)
_PICTURE = cv2.normalize(_PICTURE, None, 0, 255, cv2.NORM_MINMAX)


def _encode(picture, kind, **options):
  buffer = io.BytesIO()
  picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
  picture.save(buffer, kind, **options)
  return buffer.getvalue()


@pytest.mark.parametrize(
  ('size', 'out'), [((8, 8), (32, 32)), ((9, 12), (36, 24)), ((4, 4), (64, 4))]
)
def test_enlarging_equals_pillow(size, out):
  # Pillow has the same kernel and edge rule when it enlarges. These ratios put every tap on the
  # grid of positions to which TensorFlow rounds, so both must agree.
  picture = _RNG.uniform(0, 255, (*size, 3)).astype(np.float32)
  resized = images.resize_bicubic(picture, out)
  for channel in range(3):
    expected = Image.fromarray(picture[..., channel]).resize(out[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(resized[..., channel], np.asarray(expected), atol=1e-3)


def test_reducing_takes_four_taps_only():
  # 16 -> 4 without antialias: centres at 1.5, 5.5, ...; the taps weigh -1/16, 9/16, 9/16, -1/16.
  row = _RNG.integers(0, 256, 16)
  expected = [np.dot(row[4 * i : 4 * i + 4], [-1, 9, 9, -1]) / 16 for i in range(4)]
  picture = np.tile(row.astype(np.uint8)[None, :, None], (5, 1, 3))
  resized = images.resize_bicubic(picture, (5, 4))
  np.testing.assert_allclose(resized[2, :, 1], expected, atol=1e-3)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_box_equals_the_crop_alone(dtype):
  picture = _PICTURE.astype(dtype)
  boxed = images.resize_bicubic(picture, (33, 47), box=(11, 23, 61, 50))
  assert boxed.dtype == np.float32
  np.testing.assert_array_equal(
    boxed, images.resize_bicubic(picture[11:72, 23:73].copy(), (33, 47))
  )


def test_constant_and_same_size_are_kept():
  flat = np.full((37, 41, 3), 200, np.uint8)
  np.testing.assert_allclose(images.resize_bicubic(flat, (64, 19)), 200, atol=1e-3)
  np.testing.assert_array_equal(images.resize_bicubic(_PICTURE, (90, 120)), _PICTURE)


@pytest.mark.parametrize('size', [(50, 64), (90, 120), (7, 300)])
def test_mirror_is_the_mirrored_result(size):
  for dtype in (np.uint8, np.float32):
    mirrored = images.resize_bicubic(_PICTURE.astype(dtype), size, mirror=True)
    np.testing.assert_array_equal(mirrored[:, ::-1], images.resize_bicubic(_PICTURE, size))
    assert mirrored.flags.c_contiguous


@pytest.mark.parametrize('box', [None, (11, 23, 61, 50)])
def test_opencv_resize_is_close_and_takes_the_same_arguments(box):
  exact = images.resize_bicubic(_PICTURE, (33, 47), box, mirror=True)
  quick = images.resize_opencv(_PICTURE, (33, 47), box, mirror=True)
  assert (quick.shape, quick.dtype) == (exact.shape, np.float32)
  assert quick.flags.c_contiguous
  assert 0.1 < np.abs(quick - exact).mean() < 3  # another kernel, and rounded


@pytest.mark.parametrize('resize', [images.resize_bicubic, images.resize_opencv])
@pytest.mark.parametrize(
  ('shape', 'size', 'box'),
  [((8, 8), (4, 4), None), ((8, 8, 3), (0, 4), None), ((8, 8, 3), (4, 4), (0, 5, 8, 4))],
)
def test_bad_resize_is_refused(resize, shape, size, box):
  with pytest.raises(ValueError, match=r'resize|box'):
    resize(np.zeros(shape, np.uint8), size, box)


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'TIFF'])
def test_lossless_formats_give_the_pixels_back(kind):
  np.testing.assert_array_equal(images.decode(_encode(_PICTURE, kind)), _PICTURE)


@pytest.mark.parametrize('options', [{}, {'progressive': True}, {'subsampling': 0}])
def test_jpeg_is_close_to_pillow(options):
  data = _encode(_PICTURE, 'JPEG', quality=90, **options)
  expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
  difference = np.abs(images.decode(data).astype(int) - expected)
  assert difference.max() <= 4  # another integer DCT
  assert difference.mean() < 1.5


@pytest.mark.parametrize(
  ('mode', 'kind'),
  [('L', 'PNG'), ('L', 'JPEG'), ('P', 'PNG'), ('1', 'PNG'), ('LA', 'PNG'), ('P', 'GIF')],
)
def test_other_modes_become_rgb(mode, kind):
  data = _encode(Image.fromarray(_PICTURE).convert(mode), kind)
  expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)
  assert np.abs(images.decode(data) - expected).max() <= (2 if kind == 'JPEG' else 0)


def test_alpha_is_dropped_and_16_bits_keep_their_upper_half():
  alpha = np.dstack([_PICTURE, _RNG.integers(0, 256, _PICTURE.shape[:2], dtype=np.uint8)])
  np.testing.assert_array_equal(images.decode(_encode(alpha, 'PNG')), _PICTURE)
  deep = _RNG.integers(0, 2**16, (20, 30), dtype=np.uint16)
  decoded = images.decode(_encode(deep, 'PNG'))
  np.testing.assert_array_equal(decoded, np.repeat((deep >> 8)[..., None], 3, axis=-1))


def test_cmyk_jpeg_has_the_right_colours():
  data = _encode(Image.fromarray(_PICTURE).convert('CMYK'), 'JPEG', quality=95)
  assert np.abs(images.decode(data).astype(int) - _PICTURE).mean() < 3


_JPEG = _encode(_PICTURE, 'JPEG', quality=90)
_PNG = _encode(_PICTURE, 'PNG')


def _png_that_claims(width, height):
  head = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n\0\0\0\x0d' + head + struct.pack('>I', zlib.crc32(head)) + _PNG[33:]


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(
  ('data', 'words'),
  [
    (b'', 'empty'),
    (b'no picture at all', 'not a picture of a known format'),
    (_JPEG[:100], 'JPEG'),
    (b'\xff\xd8\xff' + bytes(200), 'JPEG'),
    (_JPEG[: len(_JPEG) // 3], 'more than half'),
    (_PNG[: len(_PNG) // 3], 'corrupt, cut off'),
    (_encode(np.ones((4, 5), np.float32), 'TIFF'), 'the TIFF picture is .* not of 8 or 16 bits'),
    (_png_that_claims(14000, 10000), '14000 x 10000'),
    (_png_that_claims(2**20, 2**20), 'reduce it first'),
  ],
)
def test_unusable_data_is_a_value_error(data, words):
  with pytest.raises(ValueError, match=words) as caught:
    images.decode(data)
  assert '\n' not in str(caught.value)


def test_slightly_cut_jpeg_is_still_used():
  whole = images.decode(_JPEG)
  cut = images.decode(_JPEG[: int(len(_JPEG) * 0.9)])
  assert cut.shape == whole.shape
  np.testing.assert_array_equal(cut[:50], whole[:50])


# ---------------------------------------------------------------- the matrix


@pytest.mark.parametrize('name', [*picture_matrix.ORIENTED, *picture_matrix.PLAIN])
def test_decodes_what_pillow_shows(name):
  stored = picture_matrix.stored(name)
  for orientation, data in picture_matrix.cells(name):
    difference = np.abs(images.decode(data) - picture_matrix.shown_by_pillow(data))
    if name.startswith('JPEG') and 'CMYK' not in name and 'YCCK' not in name:
      assert difference.max() <= 8  # TensorFlow's default is another integer DCT
      assert difference.mean() < 1.5
    else:
      assert difference.max() == 0
    if stored is not None and orientation == 1:
      np.testing.assert_array_equal(images.decode(data), stored)


@pytest.mark.parametrize(
  'name', ['JPEG RGB 4:2:0', 'JPEG orientation in XMP', 'PNG RGB', 'WebP RGB', 'TIFF RGB, LZW']
)
def test_orientations_are_those_of_exif(name):
  # EXIF 2.32, 4.6.4: where the 0th row and the 0th column of the stored pixels belong.
  upright = {
    2: lambda x: x[:, ::-1],  # top, right
    3: lambda x: x[::-1, ::-1],  # bottom, right
    4: lambda x: x[::-1],  # bottom, left
    5: lambda x: x.swapaxes(0, 1),  # left, top
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],  # right, top
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda x: x.swapaxes(0, 1)[::-1],  # left, bottom
  }
  decoded = {orientation: images.decode(data) for orientation, data in picture_matrix.cells(name)}
  for orientation, turn in upright.items():
    np.testing.assert_array_equal(decoded[orientation], turn(decoded[1]))
    assert decoded[orientation].flags.c_contiguous


@pytest.mark.parametrize('exif', [
  b'', b'II*\0', b'II*\0\x08\0\0\0\xff\xff', b'MM\0*\xff\xff\xff\xff\0\1',
  b'MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x09\0\0',  # orientation 9
  b'MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\1a\0\0\0',  # text
])  # fmt: skip
def test_a_damaged_orientation_is_none(exif):
  for kind in ('JPEG', 'PNG', 'WEBP'):
    plain = images.decode(_encode(_PICTURE, kind))
    data = _encode(_PICTURE, kind, exif=b'Exif\0\0' + exif)
    np.testing.assert_array_equal(images.decode(data), plain)


# ---------------------------------------------------------------- damage

_NOISY = _RNG.integers(0, 256, (96, 64, 3), dtype=np.uint8)
_GREY_NOISE = Image.fromarray(_NOISY[..., 0])
_TO_CUT = {
  'JPEG': _encode(_NOISY, 'JPEG', quality=90),
  'JPEG grey': _encode(_GREY_NOISE, 'JPEG', quality=90),
  'JPEG restarts': _encode(_NOISY, 'JPEG', quality=90, restart_marker_rows=1),
  'JPEG progressive': _encode(_NOISY, 'JPEG', quality=90, progressive=True),
  'JPEG CMYK': _encode(Image.fromarray(_NOISY).convert('CMYK'), 'JPEG', quality=90),
  'PNG': _encode(_NOISY, 'PNG'),
  'PNG grey': _encode(_GREY_NOISE, 'PNG'),
  'PNG interlaced': picture_matrix.interlaced_png(_NOISY),
  'GIF': _encode(_GREY_NOISE, 'GIF', interlace=0),
  'GIF interlaced': _encode(_GREY_NOISE, 'GIF'),
  'GIF transparent': _encode(_GREY_NOISE, 'GIF', interlace=0, transparency=1),
  'BMP': _encode(_NOISY, 'BMP'),
  'TIFF': _encode(_NOISY, 'TIFF'),
  'PPM': _encode(_NOISY, 'PPM'),
  'WEBP': _encode(_NOISY, 'WEBP'),
}  # fmt: skip


def _shown_leniently(data):
  """What a decoder gives that fills in what is missing; None: nothing."""
  if data.startswith(b'\xff\xd8'):
    _, _, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    if colorspace not in ('CMYK', 'YCCK'):
      return simplejpeg.decode_jpeg(data, 'RGB', fastdct=True, strict=False)
  try:
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
  except (OSError, SyntaxError):
    return None


@pytest.mark.parametrize('name', _TO_CUT)
def test_a_picture_is_used_if_half_of_its_rows_are_right(name, monkeypatch):
  data = _TO_CUT[name]
  whole = images.decode(data)
  cuts = [data[: int(share * len(data))] for share in np.arange(0.15, 1, 0.05)]
  if name.startswith('JPEG'):
    cuts += [cut + b'\xff\xd9' for cut in cuts]
  decisions = []
  for cut in cuts:
    with monkeypatch.context() as patch:
      patch.setattr('PIL.ImageFile.LOAD_TRUNCATED_IMAGES', True)
      shown = _shown_leniently(cut)
    rows = [] if shown is None else (shown == whole).all(axis=(1, 2))
    longest_run = max(map(len, ''.join('x' if right else ' ' for right in rows).split(' ')))
    if 2 * longest_run < len(whole):
      with pytest.raises(ValueError, match=r'more than half .* is missing|header is corrupt'):
        images.decode(cut)
    else:
      np.testing.assert_array_equal(images.decode(cut)[rows], whole[rows])
    decisions.append(2 * longest_run >= len(whole))
  assert any(decisions) == (name != 'WEBP')  # its decoder gives all or nothing
  assert not all(decisions)


def test_a_damaged_tiff_is_turned_upright_as_well():
  data = _encode(_NOISY, 'TIFF', exif=picture_matrix.exif(6))
  upright = _NOISY.swapaxes(0, 1)[:, ::-1]
  decoded = images.decode(data[: int(0.8 * len(data))])
  assert decoded.shape == upright.shape
  np.testing.assert_array_equal(decoded[:, -60:], upright[:, -60:])  # of 96 rows as they are stored
  with pytest.raises(ValueError, match='more than half of the TIFF picture'):
    images.decode(data[: int(0.4 * len(data))])


def test_a_progressive_jpeg_of_the_first_passes_is_refused():
  data = _encode(_PICTURE, 'JPEG', quality=90, progressive=True)
  whole = images.decode(data)
  for share in (0.2, 0.3, 0.5, 0.6):
    start = data[: int(share * len(data))]
    with pytest.raises(ValueError, match='more than half of the JPEG picture is missing'):
      images.decode(start)
    assert not (
      np.abs(_shown_leniently(start).astype(int) - whole).max(axis=(1, 2)) <= 8
    ).any()  # no row is right


def test_a_jpeg_with_stray_bytes_is_whole():
  plain = images.decode(_JPEG)
  for stray in (_JPEG[:-2] + bytes(50) + b'\xff\xd9', _JPEG + b'more', _JPEG[:-2]):
    np.testing.assert_array_equal(images.decode(stray), plain)


def test_a_grey_lower_half_is_no_damage():
  picture = _PICTURE.copy()
  picture[30:] = 128
  data = _encode(picture, 'JPEG', quality=90, restart_marker_rows=1)
  np.testing.assert_array_equal(images.decode(data[:-2]), images.decode(data))


def test_nothing_is_printed_about_damaged_files(tmp_path):
  options = [{}, *({'compression': kind} for kind in ('tiff_lzw', 'jpeg', 'tiff_adobe_deflate'))]
  for number, data in enumerate(
    [*(_encode(_PICTURE, 'TIFF', **option) for option in options), *_TO_CUT.values()]
  ):
    for copy in range(10):
      damaged = bytearray(data)
      for place in _RNG.integers(8, len(data), 4):
        damaged[place] = _RNG.integers(256)
      (tmp_path / f'{number}_{copy}').write_bytes(damaged)
  program = """
import pathlib, sys
from nfnets import images
sys.stderr.write('begin')
for path in pathlib.Path(sys.argv[1]).iterdir():
  try:
    images.decode(path.read_bytes())
  except ValueError as error:
    assert len(str(error).splitlines()) == 1
sys.stderr.write('end')
"""
  done = subprocess.run(
    [sys.executable, '-c', program, tmp_path], capture_output=True, text=True, check=True
  )
  assert done.stderr.endswith('beginend')
  assert done.stdout == ''


def test_normalize_uses_the_published_constants():
  picture = _RNG.uniform(0, 255, (2, 5, 7, 3)).astype(np.float32)
  expected = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  normalized = images.normalize(picture)
  assert normalized.dtype == np.float32
  np.testing.assert_allclose(normalized, expected, atol=1e-5)
  assert images.normalize(picture[0].astype(np.uint8)).dtype == np.float32
  out = np.empty_like(picture)
  assert images.normalize(picture, out) is out
  np.testing.assert_array_equal(out, normalized)
  assert (images.normalize(picture[:, :, ::-1]) == normalized[:, :, ::-1]).all()


def test_a_jpeg_can_be_decoded_smaller():
  data = _encode(_PICTURE, 'JPEG', quality=95, subsampling=0)
  for shrink in (2, 4, 8):
    smaller = images.decode(data, shrink=shrink)
    assert smaller.shape == (-(-90 // shrink), 120 // shrink, 3)
    rows = 90 // shrink
    squares = _PICTURE[: rows * shrink].reshape(rows, shrink, 120 // shrink, shrink, 3)
    assert np.abs(smaller[:rows] - squares.mean((1, 3))).mean() < 2
  np.testing.assert_array_equal(images.decode(data, shrink=1), images.decode(data))
  png = _encode(_PICTURE, 'PNG')
  assert images.decode(png, shrink=2).shape == _PICTURE.shape
  with pytest.raises(ValueError, match='shrink must be one of'):
    images.decode(data, shrink=3)


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_the_size_of_a_jpeg_is_that_of_the_upright_picture(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  data = _encode(_PICTURE, 'JPEG', exif=exif)
  assert images.jpeg_size(data) == images.decode(data).shape[:2]
  assert images.jpeg_size(_encode(_PICTURE, 'PNG')) is None
  with pytest.raises(ValueError, match='header is corrupt'):
    images.jpeg_size(data[:20])
