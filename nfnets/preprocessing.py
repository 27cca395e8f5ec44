"""How pictures are prepared for a network: part of every set of weights."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from nfnets import images, inference
from nfnets.audio import SoundPreprocessing

METADATA_KEY = 'preprocessing'  # of a weights file and of an ONNX file; its text is JSON
_MOST_PIXELS = 8192  # of a side


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """From a picture to a network's input: `preprocessing('cat.jpg')` is float32 [size, size, 3].

  Attributes:
    size: height and width of the input, in pixels.
    mode: how pictures are resized and cropped, see `inference.resize_for_evaluation`.
    crop_share: share of the resized side that is kept; the modes 'center' and 'squash' use it.
    mean: of each channel, R, G and B, on the scale 0..1; subtracted first.
    stddev: of each channel, on the same scale; divided by next.

  Raises:
    ValueError: a value is out of range.
  """

  size: int
  mode: str = 'resize_crop_32'
  crop_share: float = 1.0
  mean: tuple[float, float, float] = images.IMAGENET_MEAN
  stddev: tuple[float, float, float] = images.IMAGENET_STDDEV

  def __post_init__(self):
    """Checks the values."""
    if self.mode not in inference.EVALUATION_MODES:
      modes = ', '.join(inference.EVALUATION_MODES)
      raise ValueError(f'mode must be one of {modes}, got {self.mode!r}.')
    _require(
      type(self.size) is int and 1 <= self.size <= _MOST_PIXELS,
      f'size must be a whole number of pixels from 1 to {_MOST_PIXELS:,}, got {self.size!r}',
    )
    _require(
      _is_number(self.crop_share) and 0 < self.crop_share <= 1,
      f'crop_share must be above 0 and at most 1, got {self.crop_share!r}',
    )
    for name, values in (('mean', self.mean), ('stddev', self.stddev)):
      is_triple = isinstance(values, tuple) and len(values) == 3 and all(map(_is_number, values))
      _require(is_triple, f'{name} must be three numbers, got {values!r}')
    _require(min(self.stddev) > 0, f'stddev must be above 0, got {self.stddev}')

  def __call__(self, picture: inference.Picture) -> np.ndarray:
    """Returns a picture as the network's input.

    Args:
      picture: as for `inference.read_picture`.

    Returns:
      float32 [size, size, 3].

    Raises:
      OSError: a file cannot be read.
      ValueError: this is no picture.
    """
    return self.normalize(self.resize(inference.read_picture(picture, exact=self.is_exact)))

  @property
  def is_exact(self) -> bool:
    """Whether to decode JPEG exactly, see `images.decode`: for weights evaluated with Pillow."""
    return self.mode in inference.ANTIALIASED_MODES

  def resize(self, image: np.ndarray) -> np.ndarray:
    """Returns an image [H, W, 3] as float32 [size, size, 3] on the same scale."""
    return inference.resize_for_evaluation(image, self.size, self.mode, self.crop_share)

  def normalize(self, image: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns `images.normalize` of an image [..., W, 3] on the scale 0..255, float32."""
    return images.normalize(image, out, mean=self.mean, stddev=self.stddev)

  def restore(self, image: np.ndarray) -> np.ndarray:
    """Returns the uint8 pixels that `normalize` started from."""
    pixels = image * images.on_byte_scale(self.stddev) + images.on_byte_scale(self.mean)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)

  def replace(self, **changes: Any) -> Self:
    """Returns a copy with other values; None keeps a value."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(self, **given)

  def to_json(self) -> str:
    """Returns the JSON text that files store."""
    return json.dumps(dataclasses.asdict(self))

  @classmethod
  def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
    """Returns what a file of this library stores; None if it stores nothing.

    Raises:
      ValueError: the stored value cannot be used.
    """
    text = metadata.get(METADATA_KEY)
    try:
      if text is None:
        text = metadata.get('eval_size')  # what earlier training runs wrote
        mode = metadata.get('eval_mode', 'resize_crop_32')
        return None if text is None else cls(int(text), mode)
      fields = json.loads(text)
      if 'bands' in fields:
        raise ValueError('it is of sounds, not of pictures')
      for name in ('mean', 'stddev'):
        if name in fields:
          fields[name] = tuple(fields[name])
      return cls(**fields)
    except (AttributeError, TypeError, ValueError) as error:
      raise ValueError(f'its {METADATA_KEY} {text!r} cannot be used: {error}') from None

  def __str__(self) -> str:
    """For messages: '288 px, center, 94% of the side'."""
    share = f', {self.crop_share:.1%} of the side' if self.is_exact and self.crop_share < 1 else ''
    values = (self.mean, self.stddev)
    is_usual = values == (images.IMAGENET_MEAN, images.IMAGENET_STDDEV)
    scale = '' if is_usual else f', mean {self.mean}, standard deviation {self.stddev}'
    return f'{self.size} px, {self.mode}{share}{scale}'


def usual(shape: Sequence[int]) -> Preprocessing | SoundPreprocessing:
  """Returns how pictures, or sounds, are prepared where weights do not say.

  Args:
    shape: (height, width, channels) of the network's input; one channel is a spectrogram's.

  Raises:
    ValueError: pictures would not be square.
  """
  height, width, channels = shape
  if channels == 1:
    return SoundPreprocessing(height, width)
  return Preprocessing(height if height == width else (height, width))


def read_metadata(metadata: Mapping[str, str]) -> Preprocessing | SoundPreprocessing | None:
  """Returns what a file of weights stores, for pictures or for sounds; None if it stores nothing.

  Raises:
    ValueError: the stored value cannot be used.
  """
  text = metadata.get(METADATA_KEY)
  try:
    fields = {} if text is None else json.loads(text)
    if 'bands' in fields:
      return SoundPreprocessing(**fields)
  except (TypeError, ValueError) as error:
    raise ValueError(f'its {METADATA_KEY} {text!r} cannot be used: {error}') from None
  return Preprocessing.from_metadata(metadata)


def _is_number(value: Any) -> bool:
  is_real = isinstance(value, int | float) and not isinstance(value, bool)
  return is_real and math.isfinite(value)


def _require(condition: bool, sentence: str) -> None:
  if not condition:
    raise ValueError(f'{sentence}.')
