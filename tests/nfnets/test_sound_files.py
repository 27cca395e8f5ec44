"""Files of sounds: rates, channels and formats become samples; what is broken says so."""

import io
import wave

import numpy as np
import pytest

from nfnets import sound_files

soundfile = pytest.importorskip('soundfile')


def tone(rate, seconds=0.5, hertz=440.0):
  return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def encoded(samples, rate, kind='WAV', **options):
  file = io.BytesIO()
  soundfile.write(file, samples, rate, format=kind, **options)
  return file.getvalue()


def test_sounds_of_the_right_rate_are_as_they_were():
  samples = np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)
  got = sound_files.decode(encoded(samples, 16000, subtype='FLOAT'), 1.0)
  np.testing.assert_array_equal(got.wave, samples)
  assert got.seconds == 0.5
  assert got.notes == ()


@pytest.mark.parametrize('rate', [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled(rate):
  got = sound_files.decode(encoded(tone(rate), rate, 'FLAC'), 1.0)
  assert got.wave.dtype == np.float32
  assert got.notes == (f'{rate:,} Hz resampled',)
  want = tone(16000)
  assert abs(len(got.wave) - len(want)) <= 1
  np.testing.assert_allclose(got.wave[800:-800], want[800 : len(got.wave) - 800], atol=5e-3)


def test_what_is_above_the_new_limit_does_not_come_back_as_another_tone():
  got = sound_files.decode(encoded(tone(48000, hertz=11000), 48000), 1.0)
  assert np.abs(got.wave[800:-800]).max() < 0.01


@pytest.mark.parametrize('kind', ['WAV', 'FLAC', 'OGG', 'AIFF'])
def test_channels_are_averaged_in_every_format(kind):
  left, right = tone(16000), tone(16000, hertz=1000.0)
  got = sound_files.decode(encoded(np.stack([left, right], 1), 16000, kind), 1.0)
  assert got.notes == ('2 channels averaged',)
  np.testing.assert_allclose(got.wave, (left + right) / 2, atol=0.05 if kind == 'OGG' else 1e-4)


@pytest.mark.parametrize('subtype', ['PCM_U8', 'PCM_16', 'PCM_24', 'PCM_32', 'DOUBLE'])
def test_every_width_has_the_same_full_scale(subtype):
  got = sound_files.decode(encoded(tone(16000), 16000, subtype=subtype), 1.0)
  np.testing.assert_allclose(got.wave, tone(16000), atol=0.01)


def test_an_excerpt_is_read_where_it_is_asked_for():
  samples = np.linspace(-0.5, 0.5, 16000)
  data = encoded(samples, 16000, subtype='FLOAT')
  for place, first in ((0.0, 0), (0.5, 6000), (1.0, 12000)):
    got = sound_files.decode(data, 0.25, place)
    np.testing.assert_allclose(got.wave, samples[first : first + 4000], atol=1e-6)
    assert got.seconds == 1.0


def test_silence_is_said():
  assert sound_files.decode(encoded(np.zeros(100), 16000), 1.0).notes == ('silent',)


def of_header(**fields):
  """A WAV file of 16 bits whose header says something else than usual."""
  file = io.BytesIO()
  with wave.open(file, 'wb') as out:
    out.setnchannels(fields.get('channels', 1))
    out.setsampwidth(2)
    out.setframerate(fields.get('rate', 16000))
    out.writeframes(bytes(fields.get('bytes', 2000)))
  return file.getvalue()


_WHOLE_FLAC = encoded(np.random.default_rng(0).uniform(-1, 1, 20000), 16000, 'FLAC')


@pytest.mark.parametrize(
  ('data', 'sentence'),
  [
    (b'', 'it cannot be decoded'),
    (b'a page of text', 'it cannot be decoded'),
    (of_header()[:1000], r'it ends early: 1,000 of 2,044 bytes'),
    (_WHOLE_FLAC[: len(_WHOLE_FLAC) // 2], 'it ends early|cannot be decoded'),
    (of_header(bytes=0), 'it has no samples'),
    (of_header(rate=100), 'it has 100 samples a second, and 1,000 to'),
    (of_header(channels=100, bytes=2000), 'it has 100 channels, and at most 64'),
    (encoded(np.array([0.0, np.nan]), 16000, subtype='FLOAT'), 'nan times full scale'),
    (encoded(np.array([0.0, 1e30]), 16000, subtype='FLOAT'), r'1e\+30 times full scale'),
  ],
  ids=[str(i) for i in range(9)],  # the files of samples in floating point hold the time
)
def test_broken_files_are_refused_with_a_sentence(data, sentence):
  with pytest.raises(ValueError, match=sentence):
    sound_files.decode(data, 1.0)


def test_wav_files_from_a_pipe_do_not_know_their_length():
  data = bytearray(of_header())
  data[4:8] = b'\xff\xff\xff\xff'
  assert len(sound_files.decode(bytes(data), 1.0).wave) == 1000


def test_without_the_package_it_says_what_to_install(monkeypatch):
  monkeypatch.setattr(sound_files.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r'soundfile: .*\[audio\]'):
    sound_files.decode(of_header(), 1.0)
