"""From `config.data` to batches: the names that programs and scripts use."""

from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.pipeline import (
  Batches,
  DatasetInfo,
  check_test_set,
  describe,
  test_batches,
  train_batches,
)
from experiments.data.settings import DataSettings, fill_in

__all__ = [
  'NATURAL_LAYOUT',
  'Batch',
  'Batches',
  'DataSettings',
  'DatasetInfo',
  'ImageLayout',
  'check_test_set',
  'describe',
  'fill_in',
  'test_batches',
  'train_batches',
]
