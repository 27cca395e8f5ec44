"""Spectrograms against another implementation, and sounds of every kind as files."""

import math

import numpy as np
import pytest

from nfnets import audio
from nfnets.audio import SoundPreprocessing


def by_definition(wave, bands):
  """The spectrogram by its formula, in float64 and without an FFT."""
  times = np.arange(400)
  hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in times]
  points = np.linspace(*(2595 * math.log10(1 + f / 700) for f in (60, 7800)), bands + 2)
  hertz = [700 * (10 ** (p / 2595) - 1) for p in points]
  rows = []
  for t in range(len(wave) // 160):
    first = 160 * t + 80 - 200
    frame = [wave[i] if 0 <= i < len(wave) // 160 * 160 else 0.0 for i in range(first, first + 400)]
    windowed = np.array(hann) * frame
    row = np.zeros(bands)
    for k in range(513):
      f = k * 16000 / 1024
      power = abs(np.sum(windowed * np.exp(-2j * np.pi * k * times / 1024))) ** 2
      for m in range(bands):
        low, centre, high = hertz[m : m + 3]
        if low < f <= centre:
          row[m] += power * (f - low) / (centre - low)
        elif centre < f < high:
          row[m] += power * (high - f) / (high - centre)
    rows.append(np.log(row + 1e-5))
  return np.array(rows)


def test_spectrograms_are_what_the_formula_says():
  rng = np.random.default_rng(0)
  wave = 0.1 * rng.standard_normal(790).astype(np.float32)  # four frames and a rest
  got = audio.log_mel(wave, 20)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, by_definition(wave, 20), rtol=0, atol=1e-4)


def test_spectrograms_equal_those_of_librosa(golden):
  stored = golden('librosa_mel')
  np.testing.assert_allclose(
    audio.mel_filters(128).sum(axis=0), stored['filters_sum'], rtol=0, atol=1e-5
  )
  got = audio.log_mel(stored['wave'], 128)
  np.testing.assert_allclose(got, np.log(stored['power'] + 1e-5), rtol=0, atol=1e-3)


@pytest.mark.parametrize('bands', [1, 64, 128])
def test_every_filter_rises_to_one_and_sees_something(bands):
  filters = audio.mel_filters(bands)
  assert filters.shape == (bands, 513)
  assert filters.any(axis=1).all()
  assert filters.max() <= 1
  assert (np.diff(filters.argmax(axis=1)) >= 0).all()


def test_a_tone_is_in_its_band():
  t = np.arange(16000) / 16000
  for hertz in (200.0, 1000.0, 5000.0):
    found = audio.log_mel(np.sin(2 * np.pi * hertz * t), 64)[50].argmax()
    edges = np.linspace(audio.mel(60.0), audio.mel(7800.0), 66)
    assert abs(edges[found + 1] - audio.mel(hertz)) <= edges[1] - edges[0]


def test_silence_and_the_empty_sound():
  assert (audio.log_mel(np.zeros(1600), 8) == np.log(np.float32(1e-5))).all()
  assert audio.log_mel(np.zeros(159), 8).shape == (0, 8)


@pytest.mark.parametrize(
  ('length', 'place', 'first', 'last'),
  [(5, 0.0, 0, 3), (5, 1.0, 1, 4), (5, 0.5, 0, 3), (2, 0.0, 0, None), (2, 1.0, None, 1)],
)
def test_sounds_are_cut_or_put_between_zeros(length, place, first, last):
  wave = np.arange(1, length + 1, dtype=np.float32)
  got = audio.fit_length(wave, 4, place)
  assert got.shape == (4,)
  assert got[0] == (0 if first is None else wave[first])
  assert got[-1] == (0 if last is None else wave[last])


def test_the_place_in_the_middle_is_between_equal_rests():
  np.testing.assert_array_equal(audio.fit_length(np.ones(2), 6), [0, 0, 1, 1, 0, 0])
  np.testing.assert_array_equal(audio.fit_length(np.arange(6), 2), [2, 3])


def test_excerpts_are_normalised_and_come_back_as_pictures():
  preprocessing = SoundPreprocessing(frames=10, bands=16)
  out = preprocessing(np.zeros(100, np.float32))
  assert (out.shape, out.dtype) == ((10, 16, 1), np.float32)
  np.testing.assert_allclose(out, (math.log(1e-5) + 3) / 5, rtol=1e-6)
  t = np.arange(1600) / 16000
  picture = preprocessing.restore(preprocessing(np.sin(2 * np.pi * 300 * t))[None])
  assert (picture.shape, picture.dtype) == ((1, 16, 10, 3), np.uint8)
  assert picture[0, :, 5, 0].argmax() >= 8  # low frequencies are below
  assert str(preprocessing) == '0.1 s, 16 mel bands'


@pytest.mark.parametrize(
  ('make', 'sentence'),
  [
    (lambda: audio.log_mel(np.zeros((2, 100)), 8), r'a wave is an array \[n\] of floats'),
    (lambda: audio.log_mel(np.zeros(100, np.int16), 8), 'got int16'),
    (lambda: audio.mel_filters(400), 'too narrow for an FFT'),
    (lambda: SoundPreprocessing(0, 8), 'frames must be a whole number from 1'),
    (lambda: SoundPreprocessing(8, 0), 'has 1 to 512 mel bands, got 0'),
    (lambda: SoundPreprocessing(8, 8.0), 'bands must be a whole number'),
  ],
)
def test_bad_values_are_refused_with_a_sentence(make, sentence):
  with pytest.raises(ValueError, match=sentence):
    make()
