"""`predictions.csv`: names of any bytes, pictures without names, pictures that cannot be read."""

import csv
import os

import numpy as np
import PIL.Image

from configs import base
from experiments import data
from experiments.reporting import predictions
from experiments.training.evaluation import Predictions

FOUND = Predictions(
  np.array([[0.9, 0.1], [0.25, 0.75], [0.5, 0.5]], np.float32),
  np.zeros((3, 1), np.float32),
  np.array([0, 0, 1], np.int32),
  np.array([True, True, False]),
)


def make_settings(**fields):
  config = base.get_config()
  config.data.update({'image_size': 8, 'eval_image_size': 8, 'eval_batch_size': 1, **fields})
  return data.DataSettings.from_config(config)


def test_names_are_the_files_of_the_test_set(tmp_path):
  strange = os.fsdecode(b'b\xe9, "c".png')
  for name in (
    'train/a/1.png',
    'train/b/1.png',
    'test/a/1.png',
    f'test/a/{strange}',
    'test/b/3.png',
  ):
    path = tmp_path / 'pictures' / name
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new('RGB', (8, 8)).save(path)
  settings = make_settings(source='folder', dir=str(tmp_path / 'pictures'))
  path = predictions.write(tmp_path, FOUND, settings, ('a', 'b'))
  assert path == tmp_path / 'predictions.csv'
  with path.open(encoding='utf-8', errors='surrogateescape', newline='') as file:
    assert list(csv.reader(file)) == [
      ['picture', 'truth', 'prediction', 'probability', 'right'],
      ['test/a/1.png', 'a', 'a', '0.9000', 'yes'],
      [f'test/a/{strange}', 'a', 'b', '0.7500', 'no'],
      ['test/b/3.png', '', '', '', ''],
    ]


def test_pictures_without_names_have_numbers(tmp_path):
  settings = make_settings(source='synthetic', num_examples=30, num_classes=2)
  rows = predictions.write(tmp_path, FOUND, settings, ('a', 'b')).read_text().splitlines()
  assert rows[1:] == ['0,a,a,0.9000,yes', '1,a,b,0.7500,no', '2,,,,']


def test_data_are_called_by_their_own_name():
  assert make_settings(source='folder', name='cifar10', dir='some/shapes/').title == 'shapes'
  assert make_settings(source='tfds', name='cifar10', dir='where/it/lies').title == 'cifar10'
  assert make_settings(source='digits', name='cifar10').title == 'digits'
