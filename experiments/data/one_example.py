"""From a place in the stream to one example: reading, decoding, cropping, and the last steps."""

import dataclasses
import errno
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from experiments.data.augment import chain, crop
from experiments.data.settings import DataSettings
from experiments.data.sources.source import (
  Example,
  MachineError,
  ReadError,
  Source,
  blame_machine,
)
from experiments.data.unreadable import Unreadable
from experiments.runtime.errors import DataError
from nfnets import images, picture_files
from nfnets.preprocessing import Preprocessing

RESIZES = {'exact': images.resize_bicubic, 'opencv': images.resize_opencv}
FIRST, SECOND, FINISH = range(3)  # the generators of one example
PADDING = -1  # in the place of an index: no example, only room for one


class Draw(NamedTuple):
  """One training example: its picture, the picture to mix with, the seed of its randomness."""

  index: int
  second: int
  seed: int


class Cropped(NamedTuple):
  """One picture of a training example."""

  image: np.ndarray | None  # float32 [size, size, 3] on the scale 0..255; None: nothing readable
  label: int
  unreadable: tuple[Unreadable, ...]  # pictures that were met and could not be used


class Made(NamedTuple):
  """What goes into a batch beside the pixels."""

  label: int
  mix_label: int
  mix_ratio: float
  mask: float  # 0 if the example must not count
  unreadable: tuple[Unreadable, ...]


def draw(indices: tuple[int, int], rng: np.random.Generator, count: int = 1) -> tuple[Draw, ...]:
  """Gives examples the seeds of their own generators, drawn from Grain's for that position.

  Args:
    indices: of the picture, and of the one to mix with.
    rng: of the position.
    count: examples of these pictures. The first ones are the same, however many there are.
  """
  return tuple(Draw(*indices, int(rng.integers(2**63))) for _ in range(count))


class ReadOnce:
  """A source that reads a picture once, for several examples of it; of one thread."""

  def __init__(self, source: Source):
    """Takes the source that reads."""
    self.class_names, self.labels, self.origin = source.class_names, source.labels, source.origin
    self._source = source
    self._read = functools.cache(source.__getitem__)

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Example:
    return self._read(index)


class UnreadableError(Exception):
  """Carries one Unreadable: an example that cannot be used."""


def read(
  source: Source, index: int, decode: Callable[[bytes], np.ndarray]
) -> tuple[np.ndarray, int]:
  """Returns a picture, uint8 [H, W, 3], or whatever `decode` makes of a file, and its label.

  Args:
    source: where it is.
    index: its place there.
    decode: makes an array of the content of a file; raises ValueError if it cannot.

  Raises:
    UnreadableError: it cannot be used.
    MachineError: it cannot be read now, which is not its fault.
  """
  name, num_classes = f'number {index}', len(source.class_names)
  known = None if source.labels is None else int(source.labels[index])
  known = known if known is not None and 0 <= known < num_classes else None
  try:
    example = source[index]
    name, image, label = example['name'], example['image'], example['label']
    if not 0 <= label < num_classes:
      raise ValueError(
        f'its label is {label}, but the {num_classes} classes are 0 to {num_classes - 1}'
      )
    image = image if isinstance(image, np.ndarray) else decode(image)
  except MachineError:
    raise
  except ReadError as error:
    raise UnreadableError(Unreadable(error.name, error.reason, known)) from None
  except OSError as error:
    name, reason = str(error.filename or name), error.strerror or str(error)
    blame_machine(error, f'the {_noun(source)} {picture_files.printable(name)}')
    gone = error.errno in (errno.ENOENT, errno.ENOTDIR)
    raise UnreadableError(Unreadable(name, reason, known, gone)) from None
  except MemoryError as error:
    blame_machine(error, f'the {_noun(source)} {picture_files.printable(name)}')
  except ValueError as error:
    raise UnreadableError(Unreadable(name, str(error), known)) from None
  return image, label


def _noun(source: Source) -> str:
  """What messages call what a source has."""
  return 'sound' if source.origin == 'audio_folder' else 'picture'


def first_readable(
  source: Source, index: int, most: int, load: Callable[[int], tuple[np.ndarray, int]]
) -> Cropped:
  """Loads an example; an unreadable one gives way to the next of the source.

  Args:
    source: where it is.
    index: its place there, or PADDING: nothing is loaded.
    most: how many may be unreadable before it gives up.
    load: returns the array and the label of a place; raises UnreadableError.
  """
  if index == PADDING:
    return Cropped(None, 0, ())
  unreadable = []
  while len(unreadable) < most:
    try:
      image, label = load((index + len(unreadable)) % len(source))
    except UnreadableError as error:
      unreadable.append(error.args[0])
    else:
      return Cropped(image, label, tuple(unreadable))
  return Cropped(None, 0, tuple(unreadable))


def make_chain(settings: DataSettings) -> chain.Chain:
  """Returns the last steps that the settings declare; raises DataError without a magnitude."""
  if settings.augment == 'randaugment' and settings.randaugment_magnitude is None:
    raise DataError(
      'RandAugment needs a magnitude: set --config.data.randaugment_magnitude (published: 5 to 15).'
    )
  return chain.Chain(
    order=settings.order,
    policy=settings.augment,
    layers=settings.randaugment_layers,
    magnitude=settings.randaugment_magnitude,
    autoaugment_policy=settings.autoaugment_policy,
    quirks=settings.published_quirks,
    mixup_alpha=settings.mixup_alpha,
    mean=settings.mean,
    stddev=settings.stddev,
  )


def _decode(data: bytes, **options: int) -> np.ndarray:
  return images.decode(data, **options)


@dataclasses.dataclass(frozen=True)
class TrainExample:
  """Makes one augmented training example; a function of the source and a Draw alone."""

  source: Source
  image_size: int  # pixels
  crop: str  # 'random', 'shift' or 'none'
  crop_area: tuple[float, float]
  crop_aspect: tuple[float, float]
  shift_fraction: float
  flip: bool
  decode: str  # 'full' or 'scaled'
  resize: str  # one of RESIZES
  chain: chain.Chain
  max_unreadable: int  # gives up after so many in a row: more than the run accepts
  decoder: Callable[..., np.ndarray] = _decode

  @classmethod
  def from_settings(
    cls, source: Source, settings: DataSettings, max_unreadable: int
  ) -> 'TrainExample':
    """Takes the fields that it needs; raises DataError for RandAugment without a magnitude."""
    return cls(
      source=source,
      image_size=settings.image_size,
      decode=settings.decode,
      resize=settings.resize,
      crop=settings.crop,
      crop_area=settings.crop_area,
      crop_aspect=settings.crop_aspect,
      shift_fraction=settings.shift_fraction,
      flip=settings.flip,
      chain=make_chain(settings),
      max_unreadable=max_unreadable,
    )

  @property
  def shape(self) -> tuple[int, int, int]:
    """That of an example."""
    return self.image_size, self.image_size, 3

  def of_same_pictures(self) -> 'TrainExample':
    """Returns one that reads and decodes a picture once, for a few examples in one thread."""
    return dataclasses.replace(self, source=ReadOnce(self.source), decoder=functools.cache(_decode))

  def first(self, draw: Draw) -> Cropped:
    """Reads and crops the example's own picture."""
    return self._cropped(draw.index, draw, FIRST)

  def second(self, draw: Draw) -> Cropped:
    """Reads and crops the separate picture to mix with."""
    return self._cropped(draw.second, draw, SECOND)

  def finish(
    self, draw: Draw, first: Cropped, second: Cropped | None, kind: str, out: np.ndarray
  ) -> Made:
    """Mixes, augments and, unless it is to give bytes, normalises.

    Args:
      draw: whose randomness to use.
      first: the example's own picture.
      second: what to mix with; None when kind is 'none'.
      kind: one of `mixing.KINDS`.
      out: float32 or, see `DataSettings.train_ends_in_bytes`, uint8 [size, size, 3]: takes the
        pixels.
    """
    second = first if second is None else second
    unreadable = first.unreadable + (second.unreadable if second is not first else ())
    if first.image is None or second.image is None:
      out[:] = 0  # padding; or too many are unreadable, and the main process ends the run
      return Made(0, 0, 1.0, 0.0, unreadable)
    ratio = self.chain(first.image, second.image, kind, generator(draw, FINISH), out)
    return Made(first.label, second.label, ratio, 1.0, unreadable)

  def _cropped(self, index: int, draw: Draw, purpose: int) -> Cropped:
    def load(place: int) -> tuple[np.ndarray, int]:
      rng = generator(draw, purpose)  # whichever picture it is, cut by the same numbers
      image, cut, label = self._read(place, rng)
      size = (self.image_size,) * 2
      image = RESIZES[self.resize](image, size, box=cut.box, mirror=cut.mirror)
      if self.crop == 'shift':
        image = crop.random_shift(image, self.shift_fraction, rng)
      return image, label

    return first_readable(self.source, index, self.max_unreadable, load)

  def _read(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, crop.Cut, int]:
    """Reads a picture, and draws what to cut out of it: before a JPEG is decoded smaller."""
    cut = None

    def decode(data: bytes) -> np.ndarray:
      nonlocal cut
      shape = images.jpeg_size(data) if self.decode == 'scaled' else None
      if shape is None:
        return self.decoder(data)
      cut = self._cut(shape, rng)
      fits = max(1, min(cut.box[2:]) // self.image_size)
      image = self.decoder(data, shrink=max(n for n in images.SHRINKS if n <= fits))
      cut = cut.in_copy(shape, image.shape)
      return image

    image, label = read(self.source, index, decode)
    return image, cut or self._cut(image.shape, rng), label

  def _cut(self, shape: tuple[int, ...], rng: np.random.Generator) -> crop.Cut:
    if self.crop != 'random':
      return crop.Cut((0, 0, *shape[:2]), self.flip and rng.random() < 0.5)
    return crop.random_cut(
      shape,
      self.image_size,
      rng,
      area=self.crop_area,
      aspect=self.crop_aspect,
      flip=self.flip,
    )


def generator(draw: Draw, purpose: int) -> np.random.Generator:
  """One generator per purpose, so that e.g. another augmentation leaves the crops as they are."""
  return np.random.Generator(np.random.Philox(key=draw.seed + (purpose << 64)))


@dataclasses.dataclass(frozen=True)
class EvaluationExample:
  """Makes one example of the test set; an index past its end is padding."""

  source: Source
  preprocessing: Preprocessing

  @classmethod
  def from_settings(cls, source: Source, settings: DataSettings) -> 'EvaluationExample':
    """Takes the fields that it needs."""
    return cls(source, settings.preprocessing)

  @property
  def shape(self) -> tuple[int, int, int]:
    """That of the result."""
    return self.preprocessing.size, self.preprocessing.size, 3

  @functools.cached_property
  def _decode(self) -> Callable[[bytes], np.ndarray]:
    return functools.partial(images.decode, exact=self.preprocessing.is_exact)

  def __call__(self, index: int, out: np.ndarray) -> Made:
    """Reads, decodes, resizes and normalises into `out`, float32 [size, size, 3].

    Or not normalised, into uint8, where the preprocessing gives whole numbers.
    """
    unreadable = ()
    if index < len(self.source):
      try:
        image, label = read(self.source, index, self._decode)
      except UnreadableError as error:
        unreadable = (error.args[0],)
      else:
        image = self.preprocessing.resize(image)
        if out.dtype == np.uint8:
          np.copyto(out, image, casting='unsafe')
        else:
          self.preprocessing.normalize(image, out)
        return Made(label, label, 1.0, 1.0, ())
    out[:] = 0
    return Made(0, 0, 1.0, 0.0, unreadable)
