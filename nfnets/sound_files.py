"""Which files of a folder are sounds, and how they become samples at one rate.

The packages soundfile (libsndfile) and scipy read and resample; the first one is the extra `audio`.
"""

import importlib.util
import io
import math
import os
from typing import NamedTuple

import numpy as np

from nfnets import audio, installation, picture_files

# Of the formats that libsndfile reads; the content decides, so an ending may be wrong.
SOUNDS = picture_files.Kind(
  'sound',
  (
    '.wav', '.wave', '.flac', '.ogg', '.oga', '.opus', '.mp3', '.aif', '.aiff', '.aifc', '.au',
  ),
)  # fmt: skip
MOST_SECONDS = 3600.0  # that are read of one file

_RATES = (1_000, 768_000)  # Hz
_MOST_CHANNELS = 64
_LOUDEST = 1000.0  # times full scale; more is not a sound
_SILENT = 1e-5  # of full scale, less than one step of 16 bits
_SIZE_UNKNOWN = 0x7FF00000  # from here on, the sizes of WAV files that were written to a pipe


class Sound(NamedTuple):
  """A sound, or an excerpt of it.

  Attributes:
    wave: float32 [n], samples at `audio.SAMPLE_RATE`, one channel, full scale 1.
    seconds: length of the whole file.
    notes: what was done to it, or is remarkable: '44,100 Hz resampled', '2 channels averaged'.
  """

  wave: np.ndarray
  seconds: float
  notes: tuple[str, ...]


def require() -> None:
  """Raises ImportError, which says what to install, unless sounds can be read."""
  if importlib.util.find_spec('soundfile') is None:
    raise ImportError(f'sounds need the package soundfile: {installation.command("audio")}')


def read(path: str | os.PathLike, seconds: float, place: float = 0.5) -> Sound:
  """Reads a file; see `decode`.

  Raises:
    OSError: it cannot be read, see `picture_files.read`.
  """
  return decode(picture_files.read(path), seconds, place)


def decode(data: bytes, seconds: float, place: float = 0.5) -> Sound:
  """Decodes an excerpt of a sound: WAV, FLAC, Ogg, MP3, AIFF or AU, by its content.

  Channels are averaged, and other rates are brought to `audio.SAMPLE_RATE` by a polyphase filter
  (`scipy.signal.resample_poly`).

  Args:
    data: the content of a file.
    seconds: of the excerpt, at most MOST_SECONDS; a shorter sound is read whole.
    place: where in the file, as in `audio.fit_length`.

  Raises:
    ImportError: the package soundfile is not installed.
    ValueError: this is no sound, or it is damaged, cut off or empty.
  """
  require()
  import soundfile

  if not 0 < seconds <= MOST_SECONDS:
    raise ValueError(f'an excerpt has up to {MOST_SECONDS:,.0f} seconds, got {seconds}.')
  _check_whole(data)
  try:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
      rate, total = file.samplerate, file.frames
      _check_format(rate, total, file.channels)
      count = min(total, math.ceil(seconds * rate))
      file.seek(round(place * (total - count)))
      samples = file.read(count, dtype='float32', always_2d=True)  # [n, channels]
  except soundfile.LibsndfileError as error:
    reason = error.error_string.removeprefix('Error : ').rstrip('.')
    raise ValueError(f'it cannot be decoded: {reason}') from None
  if len(samples) < count:
    raise ValueError(f'it ends early: {len(samples):,} of {count:,} samples are there')
  loudest = np.abs(samples).max()
  if not loudest <= _LOUDEST:  # NaN as well
    raise ValueError(f'it has samples of {loudest:g} times full scale')
  notes = []
  if samples.shape[1] > 1:
    notes.append(f'{samples.shape[1]} channels averaged')
  wave = samples.mean(axis=1)
  if rate != audio.SAMPLE_RATE:
    notes.append(f'{rate:,} Hz resampled')
    wave = _resampled(wave, rate)
  if loudest < _SILENT:
    notes.append('silent')
  return Sound(wave, total / rate, tuple(notes))


def _check_whole(data: bytes) -> None:
  """Raises ValueError for a WAV file that is shorter than it says; the decoder would not."""
  if data[:4] == b'RIFF' and data[8:12] == b'WAVE':
    size = int.from_bytes(data[4:8], 'little')
    if len(data) + 1 < size + 8 and size < _SIZE_UNKNOWN:  # the last byte may be padding
      raise ValueError(f'it ends early: {len(data):,} of {size + 8:,} bytes are there')


def _check_format(rate: int, total: int, channels: int) -> None:
  if total < 1:
    raise ValueError('it has no samples')
  low, high = _RATES
  if not low <= rate <= high:
    raise ValueError(f'it has {rate:,} samples a second, and {low:,} to {high:,} can be used')
  if channels > _MOST_CHANNELS:
    raise ValueError(f'it has {channels} channels, and at most {_MOST_CHANNELS} can be used')


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
  from scipy import signal

  common = math.gcd(rate, audio.SAMPLE_RATE)
  out = signal.resample_poly(wave, audio.SAMPLE_RATE // common, rate // common)
  return out.astype(np.float32)
