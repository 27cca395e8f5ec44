"""From `config.data` to batches: the names that programs and scripts use."""

from experiments.data.batch import NATURAL_LAYOUT, Batch, ImageLayout
from experiments.data.identity import Identity, differences, picture_names
from experiments.data.pipeline import (
  Batches,
  DatasetInfo,
  TrainingPictures,
  check_test_set,
  describe,
  look_at_training_pictures,
  test_batches,
  train_batches,
)
from experiments.data.poisson import PoissonSampling
from experiments.data.settings import (
  DataSettings,
  adopt_normalization,
  adopt_preprocessing,
  fill_in,
  warn_of_lost_borders,
)
from experiments.data.sources import kept_open

__all__ = [
  'NATURAL_LAYOUT',
  'Batch',
  'Batches',
  'DataSettings',
  'DatasetInfo',
  'Identity',
  'ImageLayout',
  'PoissonSampling',
  'TrainingPictures',
  'adopt_normalization',
  'adopt_preprocessing',
  'check_test_set',
  'describe',
  'differences',
  'fill_in',
  'kept_open',
  'look_at_training_pictures',
  'picture_names',
  'test_batches',
  'train_batches',
  'warn_of_lost_borders',
]
