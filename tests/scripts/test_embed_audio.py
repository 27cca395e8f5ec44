"""A folder of odd sounds as vectors."""

import json

import numpy as np
import pytest

import nfnets
from nfnets import audio, weights
from nfnets.audio import SoundPreprocessing
from scripts import draw_sounds, embed_audio, export

soundfile = pytest.importorskip('soundfile')

SPEC = nfnets.ModelSpec(
  in_channels=1,
  width=(16,),
  depth=(1,),
  stride=(1,),
  group_width=8,
  stem=((3, 4, 8),),
  test_size=(20, 16),
)


@pytest.fixture(scope='module')
def trained(tmp_path_factory, recipe_params):
  """A file of weights for sounds of 0.2 s."""
  params = recipe_params(lambda x: nfnets.create_model(SPEC, 5)(x, False), np.zeros((1, 20, 16, 1)))
  path = tmp_path_factory.mktemp('weights') / 'sounds.safetensors'
  weights.save(path, params, spec=SPEC, preprocessing=SoundPreprocessing(20, 16))
  return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp('odd')
  rng = np.random.default_rng(0)

  def noise(count, channels=1):
    return 0.1 * rng.standard_normal((count, channels))

  soundfile.write(place / 'plain.wav', noise(4000), 16000)
  soundfile.write(place / 'compact disc.flac', noise(22050, 2), 44100)
  soundfile.write(place / 'short.wav', noise(800), 16000)
  soundfile.write(place / 'long.wav', noise(64000), 16000)
  soundfile.write(place / 'silence.wav', np.zeros(4000), 16000)
  (place / 'broken.flac').write_bytes(b'fLaC and no more')
  (place / 'empty.wav').write_bytes(b'')
  (place / 'list.txt').write_text('of contents')
  return place


def test_what_happened_to_each_file(folder, trained, tmp_path, capsys):
  out = tmp_path / 'out.npz'
  arguments = [str(folder), '--weights', str(trained), '--out', str(out), '--max-seconds', '2']
  assert embed_audio.main(arguments) == 1
  printed = capsys.readouterr()
  said = dict(line.split('  ', 1) for line in printed.out.splitlines()[:-1])
  said = {name: rest.strip() for name, rest in said.items()}
  assert said.pop('broken.flac').startswith('skipped: it cannot be decoded')
  assert said.pop('empty.wav').startswith('skipped: it cannot be decoded')
  assert said == {
    'compact disc.flac': '2 channels averaged; 44,100 Hz resampled',
    'long.wav': 'the middle 2 s of 4 s',
    'short.wav': '0.05 s padded to 0.2 s',
    'silence.wav': 'silent',
  }
  assert printed.out.splitlines()[-1] == f'5 of 7 sounds are in {out}.'
  assert '1 of another ending (list.txt)' in printed.err
  with np.load(out) as found:  # without pickles
    arrays = dict(found)
  assert list(arrays['names']) == [
    'compact disc.flac',
    'long.wav',
    'plain.wav',
    'short.wav',
    'silence.wav',
  ]
  assert list(arrays['skipped']) == ['broken.flac', 'empty.wav']
  assert arrays['embeddings'].shape == (5, 32)
  assert np.isfinite(arrays['embeddings']).all()
  np.testing.assert_allclose(arrays['seconds'], [0.5, 4.0, 0.25, 0.05, 0.25])


def test_an_embedding_is_the_mean_over_excerpts_that_cover_the_sound(trained):
  embedder = nfnets.Embedder.from_pretrained(trained)
  wave = draw_sounds.draw('vibrato', np.random.default_rng(0))[: 11 * 1600].astype(np.float32)
  length = 20 * audio.HOP
  starts = np.linspace(0, len(wave) - length, 5).round().astype(int)
  parts = [embedder(wave[start : start + length]) for start in starts]
  np.testing.assert_allclose(embedder(wave), np.mean(parts, axis=0), atol=1e-5)


def test_weights_for_pictures_and_bad_arguments_are_named(
  folder, trained, tmp_path, recipe_params, capsys
):
  spec = SPEC.replace(in_channels=3, test_size=16)
  params = recipe_params(lambda x: nfnets.create_model(spec, 5)(x, False), np.zeros((1, 16, 16, 3)))
  pictures = tmp_path / 'pictures.safetensors'
  weights.save(pictures, params, spec=spec)
  out = ('--out', str(tmp_path / 'x.npz'))
  for arguments, words in (
    ([str(folder), '--weights', str(pictures), *out], 'holds weights for pictures: give some'),
    ([str(tmp_path / 'no'), '--weights', str(trained), *out], 'is not a folder of sounds'),
    ([str(tmp_path), '--weights', str(trained), *out], r'ends in .wav'),
  ):
    assert embed_audio.main(arguments) == 1
    assert words in capsys.readouterr().err
  assert not (tmp_path / 'x.npz').exists()
  with pytest.raises(SystemExit):
    embed_audio.main([str(folder), '--weights', str(trained), '--out', 'x.txt'])
  with pytest.raises(ValueError, match='this network is for sounds and labels no pictures'):
    nfnets.Classifier.from_pretrained(trained)


def test_export_writes_a_network_for_sounds(trained, tmp_path, capsys):
  pytest.importorskip('onnx')
  out = tmp_path / 'net.onnx'
  assert export.main([str(trained), str(out)]) == 0
  assert capsys.readouterr().out.endswith('Sounds are to be prepared so: 0.2 s, 16 mel bands.\n')
  assert export.main([str(trained), str(out), '--size', '64']) == 1
  assert '--size and --int8 are for pictures' in capsys.readouterr().err


def test_files_say_how_sounds_are_prepared(trained, tmp_path):
  loaded = nfnets.load_pretrained(trained)
  assert loaded.preprocessing == SoundPreprocessing(20, 16)
  weights.save(tmp_path / 'silent.safetensors', loaded.params, spec=SPEC)
  again = nfnets.load_pretrained(tmp_path / 'silent.safetensors')
  assert again.preprocessing == SoundPreprocessing(20, 16)  # the spec's test size
  assert json.loads(loaded.preprocessing.to_json()) == {'frames': 20, 'bands': 16}
