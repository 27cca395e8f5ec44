"""From a place in the stream to one example of sound: a random excerpt, its spectrogram, masks."""

import dataclasses

import numpy as np

from experiments.data.augment import mixing, spec_augment
from experiments.data.one_example import (
  FINISH,
  FIRST,
  SECOND,
  Cropped,
  Draw,
  Made,
  ReadOnce,
  UnreadableError,
  first_readable,
  generator,
  read,
)
from experiments.data.settings import DataSettings
from experiments.data.sources.source import Source
from nfnets import sound_files
from nfnets.audio import SoundPreprocessing


def _decoder(preprocessing: SoundPreprocessing, place: float):
  """A function from a file's content to the excerpt that the network sees of it."""

  def decode(data: bytes) -> np.ndarray:
    wave = sound_files.decode(data, preprocessing.seconds, place).wave
    return preprocessing(wave, place)

  return decode


@dataclasses.dataclass(frozen=True)
class SoundTrainExample:
  """Makes one augmented training example; a function of the source and a Draw alone.

  A sound that is longer than an excerpt is cut at random; a shorter one is put at random between
  zeros. Spectrograms are mixed after normalisation, and masked last.
  """

  source: Source
  preprocessing: SoundPreprocessing
  mixup_alpha: float
  masks: spec_augment.Masks
  max_unreadable: int  # gives up after so many in a row: more than the run accepts

  @classmethod
  def from_settings(
    cls, source: Source, settings: DataSettings, max_unreadable: int
  ) -> 'SoundTrainExample':
    """Takes the fields that it needs."""
    masks = spec_augment.Masks(
      settings.time_masks,
      settings.time_mask_share,
      settings.mel_masks,
      settings.mel_mask_share,
    )
    return cls(source, settings.preprocessing, settings.mixup_alpha, masks, max_unreadable)

  @property
  def shape(self) -> tuple[int, int, int]:
    """That of an example."""
    return self.preprocessing.frames, self.preprocessing.bands, 1

  def of_same_pictures(self) -> 'SoundTrainExample':
    """Returns one that reads a sound once, for a few examples in one thread.

    Each decodes the excerpt that it needs.
    """
    return dataclasses.replace(self, source=ReadOnce(self.source))

  def first(self, draw: Draw) -> Cropped:
    """Reads an excerpt of the example's own sound."""
    return self._excerpt(draw.index, generator(draw, FIRST))

  def second(self, draw: Draw) -> Cropped:
    """Reads an excerpt of the separate sound to mix with."""
    return self._excerpt(draw.second, generator(draw, SECOND))

  def finish(
    self, draw: Draw, first: Cropped, second: Cropped | None, kind: str, out: np.ndarray
  ) -> Made:
    """Mixes and masks; see `one_example.TrainExample.finish`."""
    second = first if second is None else second
    unreadable = first.unreadable + (second.unreadable if second is not first else ())
    if first.image is None or second.image is None:
      out[:] = 0  # too many are unreadable: the main process ends the run
      return Made(0, 0, 1.0, 0.0, unreadable)
    rng = generator(draw, FINISH)
    mixed, ratio = mixing.mix_pair(kind, first.image, second.image, rng, self.mixup_alpha)
    np.copyto(out, mixed)
    self.masks(out, rng)
    return Made(first.label, second.label, ratio, 1.0, unreadable)

  def _excerpt(self, index: int, rng: np.random.Generator) -> Cropped:
    decode = _decoder(self.preprocessing, rng.random())
    return first_readable(
      self.source, index, self.max_unreadable, lambda place: read(self.source, place, decode)
    )


@dataclasses.dataclass(frozen=True)
class SoundEvaluationExample:
  """Makes one example of the test set, a sound's middle; an index past its end is padding."""

  source: Source
  preprocessing: SoundPreprocessing

  @classmethod
  def from_settings(cls, source: Source, settings: DataSettings) -> 'SoundEvaluationExample':
    """Takes the fields that it needs."""
    return cls(source, settings.preprocessing)

  @property
  def shape(self) -> tuple[int, int, int]:
    """That of an example."""
    return self.preprocessing.frames, self.preprocessing.bands, 1

  def __call__(self, index: int, out: np.ndarray) -> Made:
    """Reads and decodes into `out`, float32 [frames, bands, 1]."""
    unreadable = ()
    if index < len(self.source):
      try:
        out[:], label = read(self.source, index, decode=_decoder(self.preprocessing, 0.5))
      except UnreadableError as error:
        unreadable = (error.args[0],)
      else:
        return Made(label, label, 1.0, 1.0, ())
    out[:] = 0
    return Made(0, 0, 1.0, 0.0, unreadable)
