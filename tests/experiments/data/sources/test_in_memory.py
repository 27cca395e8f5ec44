"""The embedded digits and random pictures."""

import numpy as np
from sklearn import datasets

from configs import base
from experiments.data import DataSettings, sources


def _settings(**fields):
  config = base.get_config()
  config.data.update(fields)
  return DataSettings.from_config(config)


def _names(source):
  return [source[i]['name'] for i in range(len(source))]


def test_digits_are_all_there_once():
  train, test = sources.open_sources(_settings(source='digits'))
  assert (len(train), len(test)) == (1437, 360)
  assert train.class_names == tuple('0123456789')
  bunch = datasets.load_digits()
  examples = [part[i] for part in (train, test) for i in range(len(part))]
  places = [int(example['name'][7:-1]) for example in examples]
  assert sorted(places) == list(range(1797))
  for place, example in zip(places, examples, strict=True):
    assert example['label'] == bunch.target[place]
    assert example['image'].shape == (8, 8, 3)
    assert example['image'].dtype == np.uint8
    np.testing.assert_allclose(
      example['image'][..., 1] / 255 * 16, bunch.images[place], atol=0.5 * 16 / 255 + 1e-9
    )


def test_digits_split_is_stratified_and_constant():
  (_, first), (_, second) = (sources.open_sources(_settings(source='digits')) for _ in range(2))
  assert _names(first) == _names(second)
  counts = np.bincount([first[i]['label'] for i in range(len(first))])
  assert counts.min() >= 34
  assert counts.max() <= 38


def test_synthetic_is_a_function_of_the_index():
  settings = _settings(source='synthetic', num_examples=50, image_size=16, num_classes=7)
  (train, test), (again, _) = sources.open_sources(settings), sources.open_sources(settings)
  assert (len(train), len(test), len(train.class_names)) == (50, 5, 7)
  np.testing.assert_array_equal(train[3]['image'], again[3]['image'])
  assert train[3]['image'].shape == (16, 16, 3)
  assert train[9]['label'] == 2
  pictures = [train[i]['image'] for i in range(5)] + [test[i]['image'] for i in range(5)]
  assert len({picture.tobytes() for picture in pictures}) == 10
  assert abs(np.mean(pictures) - 127.5) < 3
