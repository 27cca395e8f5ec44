"""From `config.data` to batches: what programs and scripts use of it."""

from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.pipeline import (
  Batches,
  DatasetInfo,
  describe,
  test_batches,
  train_batches,
)

__all__ = [
  'NATURAL_LAYOUT',
  'Batch',
  'Batches',
  'DatasetInfo',
  'ImageLayout',
  'describe',
  'test_batches',
  'train_batches',
]
