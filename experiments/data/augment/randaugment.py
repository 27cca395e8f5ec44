"""RandAugment: every layer applies one of 16 operations, all at one magnitude (arXiv 1909.13719).

A magnitude counts in tenths of the range that AutoAugment's paper gives to each operation, and may
exceed 10. NFNets train with 4 layers at magnitudes of 5 to 15 (arXiv 2102.06171).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from experiments.data.augment import operations as ops


@dataclasses.dataclass(frozen=True)
class Options:
  """The ranges of the operations and the quirks of the published code, which are the defaults.

  Attributes:
    translate_pixels: shift of TranslateX and TranslateY at magnitude 10, in pixels.
    cutout_pixels: half the side of Cutout's square at magnitude 10, in pixels.
    posterize_base_bits: bits that Posterize keeps at magnitude 0 (at least 1 bit is always kept).
    solarize_wraps: Solarize's threshold is taken modulo 256, so that magnitude 10 inverts the
      whole picture. False: magnitude 10 and above change nothing.
    contrast_by_area: Contrast blends with the grey level min(H*W/256, 255). False: with the mean
      of the picture in grey, as Pillow does.
    enhance_from_tenth: Color, Contrast, Brightness and Sharpness use the factor 0.1 + 0.18*M, so
      that magnitude 5 is the identity. False: max(1 - 0.09*M, 0.1) or 1 + 0.09*M, with equal
      probability, so that the strength grows with the magnitude.
  """

  translate_pixels: float = 100.0
  cutout_pixels: float = 40.0
  posterize_base_bits: int = 0
  solarize_wraps: bool = True
  contrast_by_area: bool = True
  enhance_from_tenth: bool = True


PUBLISHED = Options()
CORRECTED = Options(solarize_wraps=False, contrast_by_area=False, enhance_from_tenth=False)


# --- The table: from a magnitude to the arguments of an operation ---


@dataclasses.dataclass(frozen=True)
class _Draw:
  """What the arguments of an operation may depend on; `level` is the magnitude over 10."""

  level: float
  shape: tuple[int, int]
  rng: np.random.Generator
  options: Options

  def signed(self, value: float) -> float:
    return value if self.rng.random() < 0.5 else -value

  def threshold(self) -> int:
    threshold = int(self.level * 256)
    return threshold % 256 if self.options.solarize_wraps else threshold

  def factor(self) -> float:
    if self.options.enhance_from_tenth:
      return self.level * 1.8 + 0.1
    return max(1 + self.signed(0.9 * self.level), 0.1)

  def shift(self) -> float:
    return self.signed(self.level * self.options.translate_pixels)

  def square(self) -> tuple[int, int, int]:
    height, width = self.shape
    half_side = int(self.level * self.options.cutout_pixels)
    return half_side, int(self.rng.integers(height)), int(self.rng.integers(width))


# Ranges: arXiv 1805.09501, Table 6, as the published code reads them; the order is that code's.
_TABLE: dict[str, tuple[Callable[..., np.ndarray], Callable[[_Draw], tuple]]] = {
  'AutoContrast': (ops.autocontrast, lambda draw: ()),
  'Equalize': (ops.equalize, lambda draw: ()),
  'Invert': (ops.invert, lambda draw: ()),
  'Rotate': (ops.rotate, lambda draw: (draw.signed(draw.level * 30),)),
  'Posterize': (
    ops.posterize,
    lambda draw: (draw.options.posterize_base_bits + int(draw.level * 4),),
  ),
  'Solarize': (ops.solarize, lambda draw: (draw.threshold(),)),
  'Color': (ops.color, lambda draw: (draw.factor(),)),
  'Contrast': (ops.contrast, lambda draw: (draw.factor(), draw.options.contrast_by_area)),
  'Brightness': (ops.brightness, lambda draw: (draw.factor(),)),
  'Sharpness': (ops.sharpness, lambda draw: (draw.factor(),)),
  'ShearX': (ops.shear_x, lambda draw: (draw.signed(draw.level * 0.3),)),
  'ShearY': (ops.shear_y, lambda draw: (draw.signed(draw.level * 0.3),)),
  'TranslateX': (ops.translate_x, lambda draw: (draw.shift(),)),
  'TranslateY': (ops.translate_y, lambda draw: (draw.shift(),)),
  'Cutout': (ops.cutout, lambda draw: draw.square()),
  'SolarizeAdd': (ops.solarize_add, lambda draw: (int(draw.level * 110),)),
}
OPERATIONS = tuple(_TABLE)


def to_uint8(image: np.ndarray) -> np.ndarray:
  """Clips to 0..255 and truncates, as the published pipeline does before it augments.

  Args:
    image: [H, W, 3], float or uint8, values in 0..255 but for what bicubic resizing overshoots.

  Returns:
    [H, W, 3] uint8, C-contiguous; the image itself if it is that already.
  """
  if image.dtype != np.uint8:
    image = np.clip(image, 0, 255).astype(np.uint8)
  return np.ascontiguousarray(image)


def _check_picture(image: np.ndarray) -> np.ndarray:
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
    raise ValueError(
      f'The image is {image.dtype} {list(image.shape)}, but the operations expect one uint8 '
      '[H, W, 3] picture: convert it with to_uint8, and call once per picture of a batch.'
    )
  return np.ascontiguousarray(image)


def apply(
  name: str,
  image: np.ndarray,
  magnitude: float,
  rng: np.random.Generator,
  options: Options = PUBLISHED,
) -> np.ndarray:
  """Applies one operation.

  Args:
    name: one of OPERATIONS.
    image: uint8 [H, W, 3], RGB; it is not written to.
    magnitude: 0 or more; 10 is the end of the operation's published range.
    rng: draws the sign of a geometric operation and the centre of Cutout.
    options: the ranges and quirks.

  Returns:
    uint8 [H, W, 3]; the image itself where the operation changes nothing.

  Raises:
    ValueError: unknown name, bad magnitude, or an image of another dtype or shape.
  """
  if name not in _TABLE:
    raise ValueError(f'No operation is called {name!r}: choose one of {", ".join(OPERATIONS)}.')
  if not 0 <= magnitude < math.inf:
    raise ValueError(f'The magnitude is {magnitude}, but it must be finite and 0 or more.')
  image = _check_picture(image)
  function, arguments = _TABLE[name]
  draw = _Draw(magnitude / 10, image.shape[:2], rng, options)
  return function(image, *arguments(draw))


def rand_augment(
  image: np.ndarray,
  rng: np.random.Generator,
  num_layers: int,
  magnitude: float,
  options: Options = PUBLISHED,
  names: Sequence[str] = OPERATIONS,
) -> np.ndarray:
  """Applies `num_layers` operations, each drawn uniformly from `names` (with repetition).

  Args:
    image: uint8 [H, W, 3], RGB; it is not written to.
    rng: the source of all randomness.
    num_layers: 0 or more; the NFNets use 4.
    magnitude: of every operation; 0 or more.
    options: the ranges and quirks.
    names: the operations to draw from, all 16 by default.

  Returns:
    uint8 [H, W, 3]; the image itself where no operation changed anything.

  Raises:
    ValueError: no names, an unknown name, a negative number of layers or magnitude, or an image of
      another dtype or shape.
  """
  if num_layers < 0 or not names:
    raise ValueError(
      f'RandAugment was given num_layers={num_layers} and {len(names)} operations, but it needs 0 '
      'layers or more and at least one operation.'
    )
  image = _check_picture(image)
  for index in rng.integers(len(names), size=num_layers):
    image = apply(names[index], image, magnitude, rng, options)
  return image
