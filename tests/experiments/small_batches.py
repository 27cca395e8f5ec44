"""What tests of the input pipeline share: small settings, and batches of them."""

import itertools

import numpy as np

from configs import base
from experiments import data


def make_settings(**fields):
  """Synthetic 12-pixel pictures, unless the fields say otherwise."""
  config = base.get_config()
  config.global_batch_size = fields.pop('global_batch_size', 8)
  config.seed = fields.pop('seed', 0)
  defaults = {
    'source': 'synthetic',
    'num_examples': 20,
    'num_classes': 20,  # so that a label tells which picture it is
    'image_size': 12,
    'eval_image_size': 12,
    'eval_batch_size': 4,
    'eval_mode': 'resize',
    'num_threads': 2,
  }
  config.data.update({**defaults, **fields})
  return data.DataSettings.from_config(config)


def take(settings, count, start=0, devices=1, **host):
  with data.train_batches(settings, start, devices, **host) as batches:
    return list(itertools.islice(batches, count))


def assert_same(first, second):
  assert len(first) == len(second)
  for batch, other in zip(first, second, strict=True):
    for part, other_part in zip(batch, other, strict=True):
      np.testing.assert_array_equal(part, other_part)


def labels_of(batches):
  return np.concatenate([batch.labels.ravel() for batch in batches])
