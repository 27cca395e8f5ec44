"""Where a training example is cut from its picture, and how it is placed."""

import math
from typing import NamedTuple

import numpy as np

from nfnets import inference

_ATTEMPTS = 10
_MIN_COVERED = 0.1  # TensorFlow's min_object_covered with the whole picture as the object


class Cut(NamedTuple):
  """What of a picture goes into an example."""

  box: tuple[int, int, int, int]  # top, left, height, width, pixels
  mirror: bool  # left-right

  def in_copy(self, shape: tuple[int, ...], smaller: tuple[int, ...]) -> 'Cut':
    """Returns the same of a smaller copy, its edges at the nearest whole pixels.

    Args:
      shape: (H, W, ...) of the picture.
      smaller: that of the copy.
    """
    starts, lengths = [], []
    for first, length, side, new_side in zip(
      self.box[:2], self.box[2:], shape[:2], smaller[:2], strict=True
    ):
      start, end = (int(edge * new_side / side + 0.5) for edge in (first, first + length))
      starts.append(min(start, new_side - 1))
      lengths.append(max(end - starts[-1], 1))
    return Cut((*starts, *lengths), self.mirror)


def random_cut(
  shape: tuple[int, ...],
  size: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
  flip: bool = False,
) -> Cut:
  """Draws a random resized crop, see `random_crop_box`; if `flip`, half of them mirrored."""
  box = random_crop_box(shape, size, rng, area=area, aspect=aspect)
  return Cut(box, flip and rng.random() < 0.5)


def random_crop_box(
  shape: tuple[int, ...],
  size: int,
  rng: np.random.Generator,
  *,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
  """Draws the box of a random resized crop.

  The distribution is that of TensorFlow's `sample_distorted_bounding_box`: the aspect ratio is
  uniform, then the height is uniform over all that keep area and picture (not the area, which is
  torchvision's rule and gives larger crops). As published, a draw that fails ten times or takes
  the whole picture is replaced by the padded centre crop.

  Args:
    shape: (H, W, ...) of the picture, in pixels.
    size: side that the crop will be resized to, in pixels; it only sets the centre crop's padding.
    rng: source of all randomness.
    area: least and greatest share of the picture's area.
    aspect: least and greatest width / height of the crop.

  Returns:
    (top, left, height, width) in pixels.
  """
  height, width = shape[:2]
  for _ in range(_ATTEMPTS):
    box = _attempt(height, width, rng.uniform(*aspect), area, rng)
    if box is not None and box[2] * box[3] >= _MIN_COVERED * height * width:
      if box[2:] == (height, width):
        break
      return box
  return inference.padded_center_box(shape, size)


def _attempt(
  height: int, width: int, aspect: float, area: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
  """Draws one box of the given aspect, or returns None where no such box has an allowed area."""
  min_area, max_area = (share * height * width for share in area)
  lowest = round(math.sqrt(min_area / aspect))
  highest = min(round(math.sqrt(max_area / aspect)), height)
  # The tallest box whose rounded width still fits.
  if round(highest * aspect) > width:
    highest = int((width + 0.5 - 1e-7) / aspect)
    highest -= round(highest * aspect) > width
  crop_height = int(rng.integers(min(lowest, highest), highest + 1))
  crop_width = round(crop_height * aspect)
  # Rounding may have left the range of areas by a row.
  if crop_height * crop_width < min_area:
    crop_height += 1
  elif crop_height * crop_width > max_area:
    crop_height -= 1
  crop_width = round(crop_height * aspect)
  fits = 0 < crop_height <= height and 0 < crop_width <= width
  if not fits or not min_area <= crop_height * crop_width <= max_area:
    return None
  # TensorFlow never draws the last position.
  top = int(rng.integers(height - crop_height)) if crop_height < height else 0
  left = int(rng.integers(width - crop_width)) if crop_width < width else 0
  return top, left, crop_height, crop_width


def random_shift(image: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
  """Moves an image by whole pixels; what comes into view repeats the nearest edge pixel.

  Args:
    image: [H, W, C], any dtype.
    fraction: greatest shift along each axis as a share of that side, rounded down to pixels; the
      shift is uniform between its negative and itself.
    rng: source of all randomness.

  Returns:
    [H, W, C] of the same dtype.
  """
  sources = []
  for side in image.shape[:2]:
    reach = int(fraction * side)
    sources.append(np.clip(np.arange(side) - rng.integers(-reach, reach + 1), 0, side - 1))
  return image[np.ix_(*sources)]
