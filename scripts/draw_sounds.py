"""Makes a folder of sounds to try training on: tones, chirps, noise and clicks, ten classes.

python scripts/draw_sounds.py OUT
python scripts/draw_sounds.py OUT --per-class 20 --seed 1

Writes OUT/<class>/<number>.wav: one second at 16 kHz, 16 bits. Each sound is of another pitch and
loudness (over 30 dB), begins somewhere else, and lies on faint noise; the same seed makes the same
sounds. Needs no package beyond NumPy.
"""

import pathlib
import sys
import wave

import numpy as np

from scripts import example_folder

RATE = 16_000  # Hz
CLASSES = (
  'tone',  # one frequency
  'harmonic',  # a tone with its overtones
  'two_tones',  # two frequencies at once
  'tremolo',  # a tone whose loudness trembles
  'vibrato',  # a tone whose frequency trembles
  'chirp_up',
  'chirp_down',
  'noise_low',  # below about 1 kHz
  'noise_high',  # above about 3 kHz
  'clicks',
)
_LENGTH = RATE  # samples of a file
_SHORTEST, _LONGEST = 0.4, 0.8  # seconds of the sound in it


def draw(kind: str, rng: np.random.Generator) -> np.ndarray:
  """Returns one sound of a class: float [16000], within -1..1."""
  count = int(rng.uniform(_SHORTEST, _LONGEST) * RATE)
  sound = _DRAW[kind](np.arange(count) / RATE, rng)
  edge = min(count // 10, RATE // 100)  # without a click at either end
  sound[:edge] *= np.linspace(0, 1, edge)
  sound[-edge:] *= np.linspace(1, 0, edge)
  gain = 10 ** rng.uniform(-1.5, 0) * 0.9 / np.abs(sound).max()
  placed = 10 ** rng.uniform(-4, -3) * rng.standard_normal(_LENGTH)
  start = rng.integers(_LENGTH - count + 1)
  placed[start : start + count] += gain * sound
  return np.clip(placed, -1, 1)


def _pitch(rng: np.random.Generator, low: float = 200, high: float = 4000) -> float:
  return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _sine(phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return np.sin(2 * np.pi * (phase + rng.random()))


def _harmonic(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  pitch = _pitch(rng, 150, 800)
  return sum(_sine(k * pitch * t, rng) / k for k in range(1, 9))


def _two_tones(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  pitch = _pitch(rng, 200, 1500)
  return _sine(pitch * t, rng) + _sine(pitch * rng.uniform(2.2, 2.8) * t, rng)


def _tremolo(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return _sine(_pitch(rng) * t, rng) * (1 + 0.9 * _sine(rng.uniform(8, 16) * t, rng))


def _vibrato(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  pitch, rate = _pitch(rng), rng.uniform(6, 12)
  bend = 0.12 * pitch / (2 * np.pi * rate)
  return _sine(pitch * t + bend * _sine(rate * t, rng), rng)


def _chirp(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  start, octaves = _pitch(rng, 200, 1500), rng.uniform(1.0, 2.0)
  speed = octaves * np.log(2) / t[-1]
  return _sine(start * np.expm1(speed * t) / speed, rng)


def _noise(low: float, high: float, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  spectrum = np.fft.rfft(rng.standard_normal(len(t)))
  frequencies = np.fft.rfftfreq(len(t), 1 / RATE)
  return np.fft.irfft(spectrum * ((frequencies > low) & (frequencies < high)), len(t))


def _clicks(t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  period = int(RATE / rng.uniform(8, 20))
  sound = np.zeros(len(t))
  sound[rng.integers(period) :: period] = 1.0
  return np.convolve(sound, np.exp(-np.arange(64) / 8.0))[: len(t)]


_DRAW = {
  'tone': lambda t, rng: _sine(_pitch(rng) * t, rng),
  'harmonic': _harmonic,
  'two_tones': _two_tones,
  'tremolo': _tremolo,
  'vibrato': _vibrato,
  'chirp_up': _chirp,
  'chirp_down': lambda t, rng: _chirp(t, rng)[::-1].copy(),
  'noise_low': lambda t, rng: _noise(100, rng.uniform(700, 1300), t, rng),
  'noise_high': lambda t, rng: _noise(rng.uniform(2500, 3500), 7500, t, rng),
  'clicks': _clicks,
}


def write_wav(path: pathlib.Path, sound: np.ndarray) -> None:
  """Writes float [n], within -1..1, as a file of 16 bits."""
  with wave.open(str(path), 'wb') as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(RATE)
    file.writeframes(np.round(32767 * sound).astype('<i2').tobytes())


def write(folder: pathlib.Path, per_class: int, seed: int) -> None:
  """Draws folder/<class>/<number>.wav, `per_class` of each, into a new folder."""
  example_folder.write(
    folder,
    lambda kind, rng, path: write_wav(path.with_suffix('.wav'), draw(kind, rng)),
    classes=CLASSES,
    per_class=per_class,
    seed=seed,
  )


def main(argv: list[str] | None = None) -> int:
  """Writes what the arguments say."""
  return example_folder.main(
    argv,
    description=__doc__,
    classes=CLASSES,
    per_class=100,
    noun='sounds',
    write=write,
  )


if __name__ == '__main__':
  sys.exit(main())
