"""The folder of sounds to try training on."""

import wave

import numpy as np
import pytest

from nfnets import audio
from scripts import draw_sounds


def read(path):
  with wave.open(str(path)) as file:
    assert (file.getnchannels(), file.getframerate()) == (1, 16000)
    return np.frombuffer(file.readframes(file.getnframes()), '<i2') / 32768


def test_a_seed_makes_the_same_sounds_and_another_one_others(tmp_path, capsys):
  for name, seed in (('a', '3'), ('b', '3'), ('c', '4')):
    arguments = [str(tmp_path / name), '--per-class', '1', '--seed', seed]
    assert draw_sounds.main(arguments) == 0
  assert capsys.readouterr().out.splitlines()[0] == f'10 sounds of 10 classes in {tmp_path / "a"}.'
  for kind in draw_sounds.CLASSES:
    a, b, c = (read(tmp_path / folder / kind / '0000.wav') for folder in 'abc')
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert len(a) == 16000
    assert 0.01 < np.abs(a).max() <= 1


def loudest_bands(kind, seed):
  """The loudest mel band of each frame of the sound itself, in order."""
  spectrogram = audio.log_mel(draw_sounds.draw(kind, np.random.default_rng(seed)), 64)
  loud = spectrogram.max(axis=1) > spectrogram.max() - 3
  return spectrogram[loud].argmax(axis=1)


@pytest.mark.parametrize('seed', range(3))
def test_sounds_are_what_their_names_say(seed):
  assert np.ptp(loudest_bands('tone', seed)) <= 1
  up, down = loudest_bands('chirp_up', seed), loudest_bands('chirp_down', seed)
  assert up[-1] > up[0] + 5
  assert down[-1] < down[0] - 5
  assert loudest_bands('noise_low', seed).mean() < 32 < loudest_bands('noise_high', seed).mean()


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
  assert draw_sounds.main([str(tmp_path)]) == 1
  assert capsys.readouterr().err == f'Error: {tmp_path} exists already: name a new folder.\n'
  assert list(tmp_path.iterdir()) == []
