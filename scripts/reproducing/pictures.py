"""The pictures of a claim's runs, all in memory: to train on, to choose by, to test."""

import pathlib
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from configs import base
from experiments import data
from experiments.data import Batch, DataSettings
from experiments.runtime.errors import ConfigError

DIGITS = 'digits'
SIZE = 16  # pixels of a side
_CHUNK = 500  # pictures that are read, or classified, at once
_SPLIT_SEED = 0  # of which pictures are taken: the same ones for all runs


class Part(NamedTuple):
  """Pictures with their labels."""

  images: np.ndarray  # [N, H, W, 3] float32, of mean 0 and variance 1 over the training part
  labels: np.ndarray  # [N] int32

  def batches(self) -> list[Batch]:
    """Returns them for an evaluation, the last batch filled up with mask 0."""
    found = []
    for start in range(0, len(self.labels), _CHUNK):
      images, labels = (column[start : start + _CHUNK] for column in self)
      missing = _CHUNK - len(labels)
      mask = np.pad(np.ones(len(labels), np.float32), (0, missing))
      images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
      labels = np.pad(labels, (0, missing))
      found.append(make_batch(images, labels, mask))
    return found


class Pictures(NamedTuple):
  """What the runs of a claim see."""

  num_classes: int
  train: Part
  choose: Part  # kept from training: the learning rate is chosen by it
  test: Part


def make_batch(images: np.ndarray, labels: np.ndarray, mask: np.ndarray | None = None) -> Batch:
  """Returns a batch for one device of pictures [B, H, W, 3] that are not mixed."""
  mask = np.ones(len(labels), np.float32) if mask is None else mask
  ones = np.ones_like(mask)
  return Batch(images[None], labels[None], labels[None], ones[None], mask[None])


def config_for(name: str, tfds_dir: str = '') -> ConfigDict:
  """Returns a config of what `--data` names: the digits, a folder that is there, or a TFDS name."""
  config = base.get_config()
  config.data.source = DIGITS
  if name != DIGITS:
    is_folder = pathlib.Path(name).expanduser().is_dir()
    if not is_folder and ('/' in name or name.startswith('.')):
      raise ConfigError(
        f'--data={name} is no folder: give one with a folder for each class, {DIGITS!r}, or the '
        'name of a TFDS data set such as fashion_mnist'
      )
    config.data.source = 'folder' if is_folder else 'tfds'
    config.data.name = '' if is_folder else name
    config.data.dir = name if is_folder else tfds_dir
  config.data.image_size = config.data.eval_image_size = SIZE
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = _CHUNK
  config.data.mean, config.data.stddev = (0.0,) * 3, (1.0,) * 3
  return config


def title_of(name: str, tfds_dir: str = '') -> str:
  """Returns what the pictures are called, of a folder its name."""
  return DataSettings.from_config(config_for(name, tfds_dir)).title


def load(name: str, count: int, *, tfds_dir: str = '') -> Pictures:
  """Reads the pictures of `--data`.

  Args:
    name: as `config_for` takes it.
    count: to train on, at most; a sixth as many more are kept to choose by, at most.
    tfds_dir: TFDS's data directory; '': its own default.

  Raises:
    ConfigError, DataError: there is no such data, or it is not as it should be.
  """
  settings = DataSettings.from_config(config_for(name, tfds_dir))
  with data.kept_open():
    info = data.describe(settings)
    with data.test_batches(settings, 1, of_training_set=True) as batches:
      train = gather(batches)
    with data.test_batches(settings, 1) as batches:
      test = gather(batches)
  order = np.random.default_rng(_SPLIT_SEED).permutation(len(train.labels))
  kept = min(len(order) // 7, count // 6)
  chosen, order = order[:kept], order[kept:][:count]
  mean, stddev = train.images[order].mean(), train.images[order].std()

  def normalized(part: Part, places: np.ndarray | slice = slice(None)) -> Part:
    return Part((part.images[places] - mean) / stddev, part.labels[places])

  parts = normalized(train, order), normalized(train, chosen), normalized(test)
  return Pictures(info.num_classes, *parts)


def gather(batches: data.Batches) -> Part:
  """Returns all pictures that could be read, of one device."""
  parts = []
  for batch in batches:
    real = batch.mask[0] > 0
    parts.append((batch.images[0][real], batch.labels[0][real]))
  return Part(*(np.concatenate(column) for column in zip(*parts, strict=True)))
