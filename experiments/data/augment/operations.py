"""The picture operations of AutoAugment and RandAugment, the published arithmetic to the bit.

Each takes an RGB picture, C-contiguous uint8 [H, W, 3], leaves it untouched and returns one of the
same shape and dtype (the picture itself where nothing changes). What a shift or a cut leaves empty
is filled with grey, 128. The operations: arXiv 1805.09501, Table 6; SolarizeAdd and the exact
arithmetic: the authors' TensorFlow code.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

FILL = 128
_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R 601 weights, as TensorFlow rounds them


# --- Operations that look each value up in a table of 256 ---


def _look_up(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """Replaces each value by its entry in levels [256], truncated to uint8."""
  return cv2.LUT(image, levels.astype(np.uint8))


def _look_up_channels(image: np.ndarray, make_levels: Callable) -> np.ndarray:
  """The same with one table for each channel: make_levels(plane [H, W] uint8) -> [256] or None."""
  planes = list(cv2.split(image))
  for channel, plane in enumerate(planes):
    levels = make_levels(plane)
    if levels is not None:
      planes[channel] = _look_up(plane, levels)
  return cv2.merge(planes)


def invert(image: np.ndarray) -> np.ndarray:
  """255 - image."""
  return 255 - image


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
  """Keeps the upper `bits` bits, 1 to 8; as in TensorFlow's bit shift, 0 counts as 1."""
  shift = 8 - min(max(bits, 1), 8)
  return image & np.uint8(0xFF << shift & 0xFF)


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
  """Inverts the values that are not below `threshold`."""
  above = (image >= threshold).view(np.uint8)
  return image ^ np.negative(above, out=above)  # 0 or 255; a third of the time of a table


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
  """Adds to the values below 128, up to 255."""
  added = np.minimum(255 - image, np.uint8(min(addition, 255)))
  added *= image < 128
  added += image
  return added


def _stretched(plane: np.ndarray) -> np.ndarray | None:
  low, high, _, _ = cv2.minMaxLoc(plane)
  if low == high:
    return None
  scale = np.float32(255) / np.float32(high - low)
  offset = -np.float32(low) * scale
  return np.clip(np.arange(256, dtype=np.float32) * scale + offset, 0, 255)


def autocontrast(image: np.ndarray) -> np.ndarray:
  """Stretches each channel to 0..255; a channel of one value stays."""
  return _look_up_channels(image, _stretched)


def _equalized(plane: np.ndarray) -> np.ndarray | None:
  histogram = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
  last = histogram[np.flatnonzero(histogram)[-1]]
  step = (plane.size - last) // 255
  if step == 0:
    return None
  below = np.cumsum(histogram) - histogram
  return np.minimum((below + step // 2) // step, 255)


def equalize(image: np.ndarray) -> np.ndarray:
  """Flattens each channel's histogram by Pillow's integer rule; a nearly flat channel stays."""
  return _look_up_channels(image, _equalized)


# --- Operations that blend with a degenerate picture ---


def _blend(degenerate: np.ndarray | float, values: np.ndarray, factor: float) -> np.ndarray:
  """Computes degenerate + factor * (values - degenerate), truncated to uint8, in float32."""
  blended = values - degenerate
  blended *= np.float32(factor)
  blended += degenerate
  return np.clip(blended, 0, 255, out=blended).astype(np.uint8)


def _planes(image: np.ndarray) -> list[np.ndarray]:
  return [plane.astype(np.float32) for plane in cv2.split(image)]


def _grey(planes: list[np.ndarray]) -> np.ndarray:
  """The grey level [H, W] of three float32 planes: whole numbers, by TensorFlow's rounding."""
  red, green, blue = (
    plane * np.float32(1 / 255) * weight for plane, weight in zip(planes, _LUMA, strict=True)
  )
  return np.trunc((red + green + blue) * np.float32(255.5))


def color(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the picture in grey (factor 0) with the picture (factor 1)."""
  if factor == 1:
    return image
  planes = _planes(image)
  grey = _grey(planes)
  return cv2.merge([_blend(grey, plane, factor) for plane in planes])


def contrast(image: np.ndarray, factor: float, by_area: bool = True) -> np.ndarray:
  """Blends one grey level (factor 0) with the picture (factor 1).

  The level is the area H*W over 256, at most 255, or the mean of the picture in grey.
  """
  if factor == 1:
    return image
  if by_area:
    mean = min(image.shape[0] * image.shape[1] // 256, 255)
  else:
    mean = int(_grey(_planes(image)).mean(dtype=np.float64) + 0.5)
  return _look_up(image, _blend(np.float32(mean), np.arange(256, dtype=np.float32), factor))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends black (factor 0) with the picture (factor 1)."""
  if factor == 1:
    return image
  return _look_up(image, _blend(np.float32(0), np.arange(256, dtype=np.float32), factor))


def _smooth(values: np.ndarray, row: int, pixel: int = 3) -> np.ndarray:
  """Convolves a flattened picture with [[1, 1, 1], [1, 5, 1], [1, 1, 1]] / 13 and truncates.

  Flattened, a neighbour is a constant offset away. The terms are added row by row over the kernel,
  as a direct convolution does: the order decides whether 13 equal values sum to the whole number
  or to just below it.

  Args:
    values: float32 [H*W*3].
    row: the offset of the pixel below, W*3.
    pixel: the offset of the pixel to the right.

  Returns:
    float32 [H*W*3 - 2 * (row + pixel)], for the pixels between the second and the last but one.
  """
  edge = values * (np.float32(1) / np.float32(13))
  centre = values * (np.float32(5) / np.float32(13))
  size = values.size - 2 * (row + pixel)
  total = edge[:size].copy()
  for down, right in ((0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)):
    offset = down * row + right * pixel
    total += (centre if (down, right) == (1, 1) else edge)[offset : offset + size]
  return np.trunc(total, out=total)


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
  """Blends the smoothed picture (factor 0) with the picture (factor 1); the border stays."""
  height, width = image.shape[:2]
  if factor == 1 or min(height, width) < 3:
    return image
  values = image.ravel().astype(np.float32)
  row, pixel = 3 * width, 3
  inside = slice(row + pixel, values.size - row - pixel)
  result = image.copy()
  result.ravel()[inside] = _blend(_smooth(values, row), values[inside], factor)
  result[:, 0], result[:, -1] = image[:, 0], image[:, -1]
  return result


# --- Geometry: nearest neighbour, halves round away from zero, coordinates in float32 ---


def _round(coordinates: np.ndarray) -> np.ndarray:
  coordinates += np.copysign(np.float32(0.5), coordinates)
  return np.trunc(coordinates, out=coordinates)


def _grid(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The columns [1, W] and the rows [H, 1], float32."""
  height, width = image.shape[:2]
  columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
  return columns[None, :], rows[:, None]


def _gather(image: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """result[y, x] = image[rows[y, x], columns[y, x]], for whole numbers in float32 [H, W].

  cv2.warpAffine would take half the time, but its fixed point picks another pixel in up to 4% of
  the places.
  """
  fill = (FILL,) * 3
  return cv2.remap(image, columns, rows, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, fill)


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
  """Turns about the centre; a positive angle is counterclockwise as seen."""
  height, width = image.shape[:2]
  cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
  middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
  x, y = _grid(image)
  columns = np.float32(cos) * x - np.float32(sin) * y
  columns += np.float32(middle_x - (cos * middle_x - sin * middle_y))
  rows = np.float32(sin) * x + np.float32(cos) * y
  rows += np.float32(middle_y - (sin * middle_x + cos * middle_y))
  return _gather(image, _round(columns), _round(rows))


def shear_x(image: np.ndarray, slope: float) -> np.ndarray:
  """Row y takes its pixels from slope * y to the right."""
  x, y = _grid(image)
  columns = x + np.float32(slope) * y
  return _gather(image, _round(columns), np.broadcast_to(y, columns.shape).copy())


def shear_y(image: np.ndarray, slope: float) -> np.ndarray:
  """Column x takes its pixels from slope * x below."""
  x, y = _grid(image)
  rows = np.float32(slope) * x + y
  return _gather(image, np.broadcast_to(x, rows.shape).copy(), _round(rows))


def _translate(result: np.ndarray, image: np.ndarray, pixels: float) -> np.ndarray:
  """Fills result[i] with image[i + pixels] along the first axis."""
  length = len(image)
  shift = min(max(math.floor(pixels + 0.5), -length), length)
  start, stop = max(-shift, 0), length - max(shift, 0)
  result[start:stop] = image[start + shift : stop + shift]
  result[:start] = FILL
  result[stop:] = FILL
  return result


def translate_x(image: np.ndarray, pixels: float) -> np.ndarray:
  """Moves the picture to the left by whole pixels (to the right where negative)."""
  result = np.empty_like(image)
  _translate(result.swapaxes(0, 1), image.swapaxes(0, 1), pixels)
  return result


def translate_y(image: np.ndarray, pixels: float) -> np.ndarray:
  """Moves the picture up by whole pixels (down where negative)."""
  return _translate(np.empty_like(image), image, pixels)


def cutout(image: np.ndarray, half_side: int, row: int, column: int) -> np.ndarray:
  """Greys the rows row - half_side to row + half_side - 1, and such columns (arXiv 1708.04552)."""
  result = image.copy()
  top, left = max(row - half_side, 0), max(column - half_side, 0)
  result[top : row + half_side, left : column + half_side] = FILL
  return result
