"""A folder of sounds from training to evaluation: a tiny network, and the recipe as it is."""

import json
import pathlib

import numpy as np
import pytest

import nfnets
from configs import audio_folder
from experiments import evaluate
from experiments import train as train_program
from nfnets.audio import SoundPreprocessing
from scripts import draw_sounds

pytest.importorskip('soundfile')


def test_a_run_on_sounds_leaves_weights_that_know_how_sounds_are_prepared(tmp_path):
  draw_sounds.write(tmp_path / 'sounds', per_class=2, seed=0)
  config = audio_folder.get_config('slow')
  config.num_epochs, config.global_batch_size, config.evaluate_every_epochs = 1.0, 4, 0.0
  config.model.spec = {
    'in_channels': 1,
    'width': (16,),
    'depth': (1,),
    'stride': (1,),
    'group_width': 8,
    'stem': ((3, 4, 8),),
  }
  config.data.dir = str(tmp_path / 'sounds')
  config.data.clip_seconds, config.data.mel_bands = 0.2, 16
  found = train_program.train(config, tmp_path / 'run')
  assert found['count'] == 10
  report = json.loads((tmp_path / 'run/report.json').read_text())
  assert report['class_names'] == sorted(draw_sounds.CLASSES)
  loaded = nfnets.load_pretrained(tmp_path / 'run')
  assert loaded.preprocessing == SoundPreprocessing(20, 16)
  assert (tmp_path / 'run/mistakes.png').exists()  # spectrograms
  config.data.mel_bands = 32  # the weights say 16
  config.data.clip_seconds = None
  again = evaluate.evaluate_file(config, tmp_path / 'run')
  np.testing.assert_allclose(again['loss'], found['loss_ema'], rtol=1e-5)


@pytest.mark.slow
def test_the_recipe_tells_the_drawn_sounds_apart(train, tmp_path):
  draw_sounds.write(tmp_path / 'sounds', per_class=100, seed=0)
  recipe = pathlib.Path(audio_folder.__file__)
  flags = [f'--config.data.dir={tmp_path / "sounds"}', '--config.num_epochs=30']
  output = train(tmp_path / 'run', *flags, config=recipe)
  assert '800 training and 200 test sounds' in output
  report = json.loads((tmp_path / 'run/report.json').read_text())
  assert report['top1_ema'] >= 0.9  # docs/audio.md has the figures
