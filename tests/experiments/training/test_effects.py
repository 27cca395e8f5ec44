"""Fields that are given and have no effect are refused, with what would give them one."""

import pytest

from configs import base, digits
from experiments.runtime.errors import ConfigError
from experiments.training import settings
from experiments.training.settings import effects
from experiments.training.settings.ranges import FIELDS


@pytest.mark.parametrize(
  ('field', 'sentence'),
  [
    (
      'data.num_classes',
      '--config.data.num_classes has no effect with --config.data.source=digits: leave it out, or '
      'set --config.data.source=synthetic.',
    ),
    (
      'data.dir',
      '--config.data.dir has no effect with --config.data.source=digits: leave it out, or set '
      '--config.data.source=folder or --config.data.source=tfds or '
      '--config.data.source=audio_folder.',
    ),
    (
      'optimizer.sam_ascent_share',
      '--config.optimizer.sam_ascent_share has no effect with --config.optimizer.sam_rho=0.0: '
      'leave it out, or set --config.optimizer.sam_rho.',
    ),
    (
      'finetune.new_head',
      '--config.finetune.new_head has no effect without --config.model.pretrained: leave it out, '
      'or set --config.model.pretrained.',
    ),
  ],
)
def test_the_sentence(field, sentence):
  with pytest.raises(ConfigError) as error:
    settings.require_effect(digits.get_config(), {'seed', field})
  assert str(error.value) == sentence


@pytest.mark.parametrize('effect', effects._EFFECTS, ids=lambda e: f'{e.of}-{e.fields[0]}')
def test_each_field_has_an_effect_with_the_values_that_are_named(effect):
  config = base.get_config()
  section, _, name = effect.of.rpartition('.')
  for value in effect.values or (1,):
    assert FIELDS[effect.of].accepts(value) or effect.of == 'model.pretrained'
    with config.ignore_type():
      config[section][name] = value
    given = set(effect.fields) - {
      field for other in effects._EFFECTS if other.of != effect.of for field in other.fields
    }
    settings.require_effect(config, given)
  assert set(effect.fields) <= set(FIELDS)


def test_fields_that_count_are_let_through():
  settings.require_effect(digits.get_config(), {'seed', 'data.flip', 'optimizer.momentum'})
