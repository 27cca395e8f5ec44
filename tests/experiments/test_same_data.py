"""A run goes on only with what it began with, and alone; what cannot be used is found before."""

import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest

from experiments import train
from experiments.data.sources import packed_folder
from experiments.runtime.errors import CheckpointError, DataError
from experiments.training import settings, work_directory


def copy_of(folder, place):
  shutil.copytree(folder, place)
  return place


def test_a_finished_run_keeps_its_results_when_its_data_changed(make_config, folder, tmp_path):
  pictures = copy_of(folder, tmp_path / 'pictures')
  config = make_config()
  config.data.dir, config.num_epochs, config.optimizer.sam_rho = str(pictures), 0.5, 0.0
  train.train(config, tmp_path / 'run')
  left = {p: p.read_bytes() for p in (tmp_path / 'run').glob('*.*')}
  for part in ('train', 'test'):
    (pictures / part / '7').rename(pictures / part / 'seven')
  with pytest.raises(CheckpointError, match="without the class '7'; with the new class 'seven'"):
    train.train(config, tmp_path / 'run')
  assert {p: p.read_bytes() for p in (tmp_path / 'run').glob('*.*')} == left
  for part in ('train', 'test'):
    (pictures / part / 'seven').rename(pictures / part / '7')
  config.data.dir = str(pictures.rename(tmp_path / 'moved'))
  again = train.train(config, tmp_path / 'run')  # its report, from its last checkpoint
  assert again['steps'] == 1
  # Of before the data were written down, and of another number of classes.
  (tmp_path / 'run/data.json').unlink()
  copy_of(tmp_path / 'moved/train/7', tmp_path / 'moved/train/ten')
  with pytest.raises(CheckpointError, match=r'linear/b has the shape \(5,\) there and \(6,\) in'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run/data.json').exists()


def test_a_run_that_cannot_take_a_step_leaves_the_directory_to_the_next(
  make_config, tmp_path, monkeypatch
):
  config = make_config()
  config.num_epochs, config.optimizer.sam_rho = 0.5, 0.0

  def refuse(*_):
    raise ValueError('a field that no step can use')

  with monkeypatch.context() as patch:
    patch.setattr(train.steps, 'make_train_step', lambda *_, **__: refuse)
    with pytest.raises(ValueError, match='no step can use'):
      train.train(config, tmp_path)
  config.label_smoothing = 0.05
  assert train.train(config, tmp_path)['steps'] == 1
  config.label_smoothing = 0.1
  changed = r'another config \(--config.label_smoothing: 0.05 -> 0.1\)'
  with pytest.raises(CheckpointError, match=changed):
    train.train(config, tmp_path)


def test_a_second_start_leaves_the_first_alone(make_config, tmp_path):
  config = make_config()
  run = settings.read(config)
  owned = work_directory.WorkDirectory(tmp_path, run.config, run.data, run.info.identity)
  (tmp_path / 'checkpoints/7.orbax-checkpoint-tmp').mkdir(parents=True)  # being written
  (tmp_path / 'config.json').write_text(json.dumps(run.config))
  with owned.opened():
    for probe in (False, True):
      config.finetune.linear_probe = probe
      (tmp_path / 'config.json').write_text(json.dumps(settings.read(config).config))
      with pytest.raises(CheckpointError, match=f'a run is at work in .*process {os.getpid()} on'):
        train.train(config, tmp_path)
  assert (tmp_path / 'checkpoints/7.orbax-checkpoint-tmp').exists()


def test_an_unreadable_test_set_ends_a_run_before_it_starts(make_config, folder, tmp_path):
  pictures = copy_of(folder, tmp_path / 'pictures')
  for picture in (pictures / 'test').rglob('*.png'):
    picture.write_bytes(b'')
  config = make_config()
  config.data.dir, config.data.max_corrupt_fraction = str(pictures), 1.0
  with pytest.raises(DataError, match='none of the 60 test pictures can be read'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_features_are_computed_again_when_the_folder_was_packed_again(
  make_config, folder, tmp_path, capsys
):
  pictures, packed = copy_of(folder, tmp_path / 'pictures'), tmp_path / 'packed'
  config = make_config(linear_probe=True)
  config.data.dir = str(packed)
  packed_folder.pack(str(pictures), str(packed))
  before = train.train(config, tmp_path / 'run')
  for picture in pictures.rglob('*.png'):  # other pictures of the same names
    pixels = np.array(PIL.Image.open(picture))
    PIL.Image.fromarray(255 - pixels).save(picture)
  shutil.rmtree(packed)
  packed_folder.pack(str(pictures), str(packed))
  capsys.readouterr()
  after = train.train(config, tmp_path / 'run')
  assert 'Computing the features of 40 pictures' in capsys.readouterr().out
  assert after['loss'] != before['loss']
