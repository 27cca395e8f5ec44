"""A folder of sounds as a data set: what counts, what an example is, what cannot be used."""

import logging

import numpy as np
import pytest

from configs import audio_folder, base
from experiments import data
from experiments.data import DataSettings, examples, one_example, sources
from experiments.data.augment.spec_augment import Masks
from experiments.runtime.errors import ConfigError, DataError
from experiments.training import settings as training_settings
from scripts import draw_sounds

pytest.importorskip('soundfile')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Ten classes of three sounds, and some that cannot be used."""
  place = tmp_path_factory.mktemp('sounds') / 'set'
  draw_sounds.write(place, per_class=3, seed=0)
  (place / 'clicks/9.wav').write_bytes(b'RIFF and no more')
  (place / 'clicks/notes.txt').write_text('recorded on a Monday')
  return place


def make_settings(folder, size=4, **fields):
  config = base.get_config()
  config.data.update(
    {'source': 'audio_folder', 'dir': str(folder), 'clip_seconds': 0.5, 'mel_bands': 16, **fields}
  )
  config.data.eval_batch_size = 4
  config.global_batch_size = size
  return DataSettings.from_config(config)


def test_the_folder_is_searched_for_sounds(folder, caplog):
  with caplog.at_level(logging.WARNING):
    train, test = sources.open_sources(make_settings(folder))
  assert train.class_names == tuple(sorted(draw_sounds.CLASSES))
  assert (len(train), len(test)) == (21, 10)
  assert train.origin == 'audio_folder'
  assert '1 of another ending (clicks/notes.txt)' in caplog.text


def test_an_example_is_an_excerpt_and_a_function_of_its_draw(folder):
  settings = make_settings(folder, mixing='mixup', mixup_alpha=1.0, time_masks=1, mel_masks=1)
  train, _ = sources.open_sources(settings)
  make = examples.for_training(train, settings, max_unreadable=5)
  assert make.shape == settings.train_shape == settings.eval_shape == (50, 16, 1)

  def run(seed, kind='mixup'):
    draw = one_example.Draw(0, 5, seed)
    out = np.full(make.shape, np.nan, np.float32)
    second = make.second(draw) if kind != 'none' else None
    return out, make.finish(draw, make.first(draw), second, kind, out)

  (a, made), (b, _), (c, _) = run(1), run(1), run(2)
  np.testing.assert_array_equal(a, b)
  assert (a != c).any()
  assert np.isfinite(a).all()
  assert 0 < made.mix_ratio < 1
  assert made.label == train.labels[0]
  assert made.mix_label == train.labels[5]
  assert run(1, 'none')[1].mix_ratio == 1


def test_a_sound_is_read_once_for_several_excerpts(folder, monkeypatch):
  settings = make_settings(folder, size=6, augmentations_per_image=3, max_corrupt_fraction=0.2)
  single = make_settings(folder, size=2, max_corrupt_fraction=0.2)
  for step in range(4):
    with data.train_batches(settings, step, 1) as several:
      batch = next(several)
    with data.train_batches(single, step, 1) as once:
      first = next(once)
    np.testing.assert_array_equal(batch.labels[0], np.repeat(first.labels[0], 3))
    np.testing.assert_array_equal(batch.images[:, ::3], first.images)
    assert len({image.tobytes() for image in batch.images[0]}) == 6
  train, _ = sources.open_sources(settings)
  reads, of_class = [], type(train).__getitem__
  monkeypatch.setattr(
    type(train), '__getitem__', lambda self, i: reads.append(i) or of_class(self, i)
  )
  example = examples.for_training(train, settings, max_unreadable=5).of_same_pictures()
  for seed in range(3):
    example.first(one_example.Draw(4, 5, seed))
  assert reads == [4]


def test_batches_of_sounds_are_complete_and_count_what_is_broken(folder, caplog):
  settings = make_settings(folder, held_out_fraction=0.1, max_corrupt_fraction=0.5)
  info = data.describe(settings)
  data.check_test_set(settings)
  with data.train_batches(settings, 0, num_devices=1) as batches:
    drawn = [next(batches) for _ in range(8)]  # more than an epoch
    assert list(batches.corrupt) == ['clicks/9.wav']
  assert drawn[0].images.shape == (1, 4, 50, 16, 1)
  assert {float(x) for batch in drawn for x in batch.mask.flat} == {1.0}
  assert 'cannot use the sound clicks/9.wav: it cannot be decoded' in caplog.text
  with data.test_batches(settings, num_devices=1) as batches:
    tested = list(batches)
  assert sum(batch.mask.sum() for batch in tested) == info.num_test


def test_too_many_broken_sounds_end_the_run(folder):
  settings = make_settings(folder, held_out_fraction=0.1, max_corrupt_fraction=0.01)

  def run():
    with data.train_batches(settings, 0, num_devices=1) as batches:
      for _ in range(8):
        next(batches)

  with pytest.raises(DataError, match='1 of 21 sounds are unreadable, the last being clicks/9.wav'):
    run()


def test_a_folder_without_sounds_is_named_so(tmp_path):
  with pytest.raises(DataError, match="the folder of sounds 'not/there' does not exist"):
    sources.open_sources(make_settings('not/there'))
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a/1.jpg').touch()
  with pytest.raises(DataError, match=r'no class folders with sounds; expected .* \.wav'):
    sources.open_sources(make_settings(tmp_path))


def test_masks_hide_at_most_their_share():
  rng = np.random.default_rng(0)
  hidden = set()
  for _ in range(200):
    spectrogram = np.ones((20, 10, 1), np.float32)
    Masks(time_masks=1, time_share=0.25, mel_masks=0)(spectrogram, rng)
    rows = np.flatnonzero((spectrogram == 0).all(axis=(1, 2)))
    assert (np.diff(rows) == 1).all()
    assert (spectrogram == 0).sum() == 10 * len(rows)
    hidden.add(len(rows))
  assert hidden == {0, 1, 2, 3, 4, 5}
  spectrogram = np.ones((20, 10, 1), np.float32)
  Masks(time_masks=0, mel_masks=50, mel_share=0.5)(spectrogram, rng)
  assert (spectrogram == spectrogram[:1]).all()  # the same bands in all frames
  assert (spectrogram == 0).any()


def test_the_recipe_has_the_sizes_of_its_network_and_flags_change_them(folder):
  config = audio_folder.get_config('slow')
  config.data.dir = str(folder)
  run = training_settings.read(config)
  assert run.data.train_shape == (100, 64, 1)
  assert run.spec.family == 'NFNet'
  assert audio_folder.get_config().model.spec.family == 'slow_fast_nf_net'
  config.data.clip_seconds, config.data.mel_bands = 0.25, 32
  assert training_settings.read(config).data.train_shape == (25, 32, 1)
  with pytest.raises(ValueError, match='takes no argument or :slow, got :fast'):
    audio_folder.get_config('fast')


@pytest.mark.parametrize(
  ('source', 'variant', 'sentence'),
  [
    ('audio_folder', 'F0', 'spectrograms of one channel and the network takes 3: choose'),
    ('digits', 'NFNet-F0-slow', 'pictures of three channels and the network takes 1: choose'),
  ],
)
def test_networks_are_for_sounds_or_for_pictures(folder, source, variant, sentence):
  config = base.get_config()
  config.data.source, config.data.dir, config.model.variant = source, str(folder), variant
  with pytest.raises(ConfigError, match=sentence):
    training_settings.read(config)
