"""Log-mel spectrograms: what networks for sound take in place of pictures.

A frame is a Hann window of 25 ms, a new one begins every 10 ms. With the samples x of frame t and
the triangular filters H of the mel scale,

    S[t, m] = log(sum over k of H[m, k] |X[t, k]|^2 + 1e-5),    X[t] = FFT(window * x, 1024 points)

is the spectrogram. Full scale is 1, so that digital silence is log(1e-5) everywhere.
"""

import dataclasses
import functools
import json
from typing import Self

import numpy as np
from scipy import fft, sparse

SAMPLE_RATE = 16_000  # Hz
WINDOW = 400  # samples
HOP = 160  # samples from one frame to the next
FRAMES_PER_SECOND = SAMPLE_RATE // HOP
LOWEST, HIGHEST = 60.0, 7800.0  # Hz, where the first filter begins and the last one ends
FLOOR = 1e-5  # added to the power of a band
# Of the logarithm, over ordinary recordings, rounded. A constant: loudness can matter.
MEAN, STDDEV = -3.0, 5.0

_FFT = 1024  # points
_MOST_BANDS = 512
_MOST_FRAMES = 360_000  # an hour


def mel(frequency: float | np.ndarray) -> float | np.ndarray:
  """Returns the mels of a frequency in Hz: 2595 log10(1 + f / 700)."""
  return 2595.0 * np.log10(1.0 + np.asarray(frequency) / 700.0)


@functools.lru_cache(maxsize=8)
def mel_filters(bands: int) -> np.ndarray:
  """Returns the filters H of a spectrogram.

  The corners of the triangles are `bands + 2` points from LOWEST to HIGHEST at equal distances in
  mel. Filter m rises from point m to 1 at point m + 1 and falls to 0 at point m + 2, linearly in
  Hz.

  Args:
    bands: number of filters.

  Returns:
    float32 [bands, 513], read-only.

  Raises:
    ValueError: a filter would be so narrow that it has no frequency of the FFT.
  """
  if not 1 <= bands <= _MOST_BANDS:
    raise ValueError(f'a spectrogram has 1 to {_MOST_BANDS} mel bands, got {bands}.')
  corners = 700.0 * (10 ** (np.linspace(mel(LOWEST), mel(HIGHEST), bands + 2) / 2595.0) - 1)
  low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
  frequencies = np.arange(_FFT // 2 + 1) * (SAMPLE_RATE / _FFT)
  rising = (frequencies - low) / (centre - low)
  falling = (high - frequencies) / (high - centre)
  filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
  if not filters.any(axis=1).all():
    raise ValueError(f'{bands} mel bands are too narrow for an FFT of {_FFT} points: use fewer.')
  filters.flags.writeable = False
  return filters


def log_mel(wave: np.ndarray, bands: int) -> np.ndarray:
  """Returns the spectrogram S of a sound.

  Frame t is centred on sample (t + 1/2) HOP; what lies outside the sound is zeros.

  Args:
    wave: float [n], samples at SAMPLE_RATE, full scale 1.
    bands: number of mel bands.

  Returns:
    float32 [n // HOP, bands].

  Raises:
    ValueError: the wave is not such an array, or there are too many bands.
  """
  wave = np.asarray(wave)
  if wave.ndim != 1 or wave.dtype.kind != 'f':
    raise ValueError(f'a wave is an array [n] of floats, got {wave.dtype} {list(wave.shape)}.')
  filters = _sparse_filters(bands)
  count = len(wave) // HOP
  if not count:
    return np.zeros((0, bands), np.float32)
  margin = (WINDOW - HOP) // 2
  padded = np.pad(wave[: count * HOP].astype(np.float32), margin)
  frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]  # [count, WINDOW]
  spectrum = fft.rfft(frames * _window(), _FFT)  # NumPy's takes eight times as long in float32
  power = np.square(spectrum.real) + np.square(spectrum.imag)
  return np.log((filters @ power.T).T + np.float32(FLOOR))


@functools.lru_cache(maxsize=8)
def _sparse_filters(bands: int) -> sparse.csr_array:
  """The filters, most of which is zeros; the threads of a dense product would be in the way."""
  return sparse.csr_array(mel_filters(bands))


@functools.cache
def _window() -> np.ndarray:
  """The periodic Hann window."""
  return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def fit_length(wave: np.ndarray, length: int, place: float = 0.5) -> np.ndarray:
  """Cuts a sound to a length, or puts it between zeros.

  Args:
    wave: float [n].
    length: samples of the result.
    place: which of the possible places: 0 the first, 0.5 the middle, 1 the last; of a longer sound
      where the excerpt begins, of a shorter one where it is put.

  Returns:
    float [length].
  """
  offset = round(place * abs(len(wave) - length))
  if len(wave) >= length:
    return wave[offset : offset + length]
  fitted = np.zeros(length, wave.dtype)
  fitted[offset : offset + len(wave)] = wave
  return fitted


@dataclasses.dataclass(frozen=True)
class SoundPreprocessing:
  """From a sound to a network's input, float32 [frames, bands, 1]: part of its weights.

  Attributes:
    frames: length of an excerpt, in steps of 10 ms.
    bands: mel bands.

  Raises:
    ValueError: a value is out of range.
  """

  frames: int
  bands: int

  def __post_init__(self):
    """Checks the values."""
    if type(self.frames) is not int or not 1 <= self.frames <= _MOST_FRAMES:
      raise ValueError(
        f'frames must be a whole number from 1 to {_MOST_FRAMES:,}, got {self.frames!r}.'
      )
    if type(self.bands) is not int:
      raise ValueError(f'bands must be a whole number, got {self.bands!r}.')
    mel_filters(self.bands)

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of the network's input: (frames, bands)."""
    return self.frames, self.bands

  def replace(self, size: tuple[int, int] | None = None) -> Self:
    """Returns a copy of another (frames, bands); None keeps them."""
    return self if size is None else type(self)(*size)

  @property
  def seconds(self) -> float:
    """Length of an excerpt."""
    return self.frames / FRAMES_PER_SECOND

  def __call__(self, wave: np.ndarray, place: float = 0.5) -> np.ndarray:
    """Returns an excerpt of a sound as the network's input.

    Args:
      wave: float [n], samples at SAMPLE_RATE, full scale 1.
      place: as in `fit_length`.

    Returns:
      float32 [frames, bands, 1], normalised.
    """
    excerpt = fit_length(np.asarray(wave), self.frames * HOP, place)
    return ((log_mel(excerpt, self.bands) - MEAN) / STDDEV)[..., None]

  def restore(self, spectrograms: np.ndarray) -> np.ndarray:
    """Returns spectrograms [..., frames, bands, 1] as grey pictures: uint8 [..., bands, frames, 3].

    Time runs to the right and frequency upward; white is twice the standard deviation.
    """
    grey = np.clip((spectrograms + 2) * (255 / 4), 0, 255).astype(np.uint8)
    return np.repeat(np.flip(grey.swapaxes(-3, -2), axis=-3), 3, axis=-1)

  def to_json(self) -> str:
    """Returns the JSON text that files store."""
    return json.dumps(dataclasses.asdict(self))

  def __str__(self) -> str:
    """For messages: '4 s, 128 mel bands'."""
    return f'{self.seconds:g} s, {self.bands} mel bands'
