"""`config.data` in types."""

import dataclasses

import pytest

from configs import base
from experiments.data import DataSettings
from experiments.runtime.errors import ConfigError


def test_all_fields_are_taken_over_and_lists_become_tuples():
  config = base.get_config()
  config.seed, config.global_batch_size = 3, 16
  config.data.crop_area = [0.5, 1.0]
  settings = DataSettings.from_config(config)
  assert (settings.seed, settings.global_batch_size) == (3, 16)
  assert settings.crop_area == (0.5, 1.0)
  imagenet = {'mean': (0.485, 0.456, 0.406), 'stddev': (0.229, 0.224, 0.225)}  # where none is given
  expected = {**config.data.to_dict(), **imagenet, 'crop_area': (0.5, 1.0)}
  assert expected.items() <= vars(settings).items()
  with pytest.raises(dataclasses.FrozenInstanceError):
    settings.flip = False


def test_fields_that_nobody_reads_are_refused():
  config = base.get_config()
  config.data.mixin = 'cutmix'
  with pytest.raises(
    ConfigError, match=r"data\.mixin is no field: configs/base.py lists .* Did you mean 'mixing'"
  ):
    DataSettings.from_config(config)
