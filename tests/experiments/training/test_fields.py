"""Every field of configs/base.py: the values refused by the name of its flag, and the others."""

import math

import pytest

from configs import base
from experiments.data import DatasetInfo, one_example, sources
from experiments.data import ranges as data_ranges
from experiments.runtime.errors import ConfigError
from experiments.training import settings
from experiments.training.settings.ranges import FIELDS

INFO = DatasetInfo(1000, 100, 10, tuple('abcdefghij'))
# Whose entries their users name.
DICTIONARIES = ('model.spec', 'finetune.learning_rate_multipliers')
VALUES = {
  'NaN': math.nan,
  'inf': math.inf,
  '-1': -1,
  '0': 0,
  '1e30': 1e30,
  '10**12': 10**12,
  'None': None,
  'a word': 'x',
  'a tuple of one': (1,),
  'no entry': (),
  'a dictionary': {'a': 'x'},
}
# Of all fields with all values, those that a run can use.
ACCEPTED = {
  '0': {
    'seed',
    'label_smoothing',
    'ema_decay',  # the average is the network itself
    'evaluate_every_epochs',  # only at the end
    'model.drop_rate',
    'model.stochdepth_rate',
    'model.skip_gain_init',
    'optimizer.learning_rate',  # nothing moves
    'optimizer.warmup_epochs',
    'optimizer.final_learning_rate',
    'optimizer.momentum',
    'optimizer.adam_b1',
    'optimizer.adam_b2',
    'optimizer.weight_decay',
    'optimizer.clipping',  # none
    'optimizer.sam_rho',  # none
    'data.num_examples',  # of another source than 'synthetic'
    'data.shift_fraction',
    'data.randaugment_magnitude',
    'data.num_workers',  # threads of this process
    'data.time_masks',
    'data.time_mask_share',
    'data.mel_masks',
    'data.mel_mask_share',
    'data.max_corrupt_fraction',
  },
  # The run diverges, which `on_nonfinite` is for.
  '1e30': {'optimizer.learning_rate'},
  '10**12': {'optimizer.learning_rate'},
  # What is derived, or left to the network.
  'None': {
    'num_epochs',
    'global_batch_size',
    'log_every_steps',
    'evaluate_every_epochs',
    'model.variant',  # the spec says all
    'optimizer.learning_rate',
    'optimizer.warmup_epochs',
    'model.num_classes',
    'model.drop_rate',
    'model.stochdepth_rate',
    'model.activation',
    'model.skip_gain_init',
    'optimizer.clipping',
    'private.epsilon',  # a run that is not private
    'private.delta',
    'private.noise_multiplier',
    'data.image_size',
    'data.eval_image_size',
    'data.clip_seconds',
    'data.mel_bands',
    'data.randaugment_magnitude',
    'data.eval_batch_size',
    'data.crop',
    'data.eval_mode',
    'data.mean',
    'data.stddev',
  },
  # Names and places, which are looked for later.
  'a word': {'compilation_cache', 'data.name', 'data.dir', 'data.train_split', 'data.test_split'},
  'a tuple of one': {'model.remat'},  # the second stage
  'no entry': {'model.remat', 'finetune.frozen', 'data.published_quirks'},
}


def small():
  config = base.get_config()
  config.num_epochs = 20.0
  config.global_batch_size = 32
  config.model.variant = 'custom'
  config.model.spec = {
    'width': (16, 16),
    'depth': (1, 1),
    'stride': (1, 2),
    'group_width': 8,
    'train_size': 16,
    'test_size': 16,
  }
  config.data.source = 'digits'
  return config


def put(config, path, value):
  *sections, name = path.split('.')
  for section in sections:
    config = config[section]
  with config.unlocked(), config.ignore_type():
    config[name] = value


def fields(section, path=''):
  for name, value in section.items():
    inner = f'{path}{name}'
    if isinstance(value, dict) and inner not in DICTIONARIES:
      yield from fields(value, f'{inner}.')
    else:
      yield inner


PATHS = sorted(fields(base.get_config().to_dict()))


def test_every_field_has_a_row_and_every_row_a_field():
  assert sorted(FIELDS) == PATHS
  assert set(data_ranges.FIELDS) == set(base.get_config().data)


def test_choices_are_what_their_parts_know():
  assert set(data_ranges.FIELDS['resize'].choices) == set(one_example.RESIZES)
  assert set(data_ranges.FIELDS['source'].choices) == set(sources.OPENERS)


@pytest.mark.parametrize('value', VALUES)
def test_a_value_is_refused_by_the_name_of_the_flag_or_meant_to_be_accepted(value):
  refused = {}
  for path in PATHS:
    config = small()
    put(config, path, VALUES[value])
    try:
      settings.read(config, INFO)
    except ConfigError as error:
      refused[path] = str(error)
  assert [path for path, text in refused.items() if f'--config.{path}' not in text] == []
  assert [path for path, text in refused.items() if '\n' in text] == []
  assert set(PATHS) - set(refused) == ACCEPTED.get(value, set())


@pytest.mark.parametrize(
  ('path', 'value', 'sentence'),
  [
    ('checkpoint_every_steps', 0, 'must be a whole number from 1 to 2,147,483,647, got 0.'),
    ('evaluate_every_epochs', -1.0, r'must be a number from 0 to 1,000,000 \(0: only at'),
    ('keep_checkpoints', 1.5, 'must be a whole number from 1 to 1,000,000, got 1.5.'),
    (
      'data.crop_area',
      (1.0, 0.5),
      r'must be a pair \(least, greatest\), each a number above 0',
    ),
    ('data.crop_area', (0, 0), r'and at most 1, got \(0, 0\).'),
    ('data.crop_area', (0.5, 2), r'and at most 1, got \(0.5, 2\).'),
    ('data.crop_area', (0.1, 0.5, 1.0), 'must be a pair'),
    ('data.crop_area', 0.5, 'must be a pair .* got 0.5.'),
    ('data.crop_area', 'all', "must be a pair .* got 'all'."),
    ('data.crop_area', (0.5, math.nan), 'must be a pair'),
    ('data.crop_aspect', (0, 0), r'each a number from 0.01 to 100, got \(0, 0\).'),
    ('data.flip', 1, 'must be True or False, got 1.'),
    ('data.held_out_fraction', 1.0, 'must be a number above 0 and below 1, got 1.0.'),
    ('data.crop', 'randm', "'shift', 'none', or None, got 'randm'. Did you mean 'random'"),
    ('data.mixing', 'mixcut', "'mixup', 'cutmix', 'mixup_cutmix', got 'mixcut'"),
    ('data.order', ('mix',), r"\('augment', 'mix', 'normalize'\), .* got \('mix',\)"),
    ('data.published_quirks', ('solarise',), "each entry is one of 'solarize_wraps'"),
    ('data', 3, 'must be a section of fields'),
    ('model.variant', 'nf_regnet_b9', "Unknown model 'nf_regnet_b9'"),
    ('model.activation', 'gleu', "got 'gleu'. Did you mean"),
    ('model.spec', {'width': 3}, 'A ModelSpec needs depth'),
    ('model.remat', (2,), r'may name stages of \(0, 1\)'),
    ('finetune.learning_rate_multipliers', {'NFNet': -1.0}, 'a dictionary whose values are each'),
    ('seed', -1, 'must be a whole number from 0 to 4,294,967,295, got -1.'),
    ('ema_decay', 1.5, r'must be a number from 0 to 1 \(published: 0.99999\), got 1.5.'),
    ('optimizer.learning_rate', math.nan, r'must be a number from 0 to 1e\+38, or None, got nan.'),
    ('optimizer.final_learning_rate', 1.0, 'is 1.0, above the highest rate 0.0125, which is'),
    ('num_epochs', math.inf, 'must be a number above 0 and at most 1,000,000, or None, got inf.'),
    ('seeds', 1, "is no field: configs/base.py lists all fields. Did you mean 'seed'"),
    ('data.cropp', 'none', "is no field: .* Did you mean 'data.crop'"),
    ('profile', '1:99999999999999', "must be 'a:b'"),
  ],
)
def test_sentences(path, value, sentence):
  config = small()
  put(config, path, value)
  with pytest.raises(ConfigError, match=f'^--config.{path}.* ?{sentence}'):
    settings.read(config, INFO)


def test_a_missing_field_is_named():
  config = small()
  with config.unlocked():
    del config.data['crop']
  with pytest.raises(ConfigError, match='^--config.data.crop is missing: configs/base.py lists'):
    settings.read(config, INFO)


def test_fields_are_checked_before_weights_are_read():
  config = small()
  config.model.pretrained = 'absent.safetensors'
  config.ema_decay = 1.5
  for read in (settings.resolve, lambda config: settings.read_evaluation(config, 'absent')):
    with pytest.raises(ConfigError, match='ema_decay'):
      read(config)


def test_a_run_is_as_long_as_its_counter_at_most():
  config = small()
  config.num_epochs = 1e6
  with pytest.raises(ConfigError, match='--config.num_epochs=1000000.0 of .* for fewer epochs'):
    settings.read(config, INFO._replace(num_train=1_000_000))


def test_evaluating_more_often_than_each_update_is_after_each():
  plan = settings.Plan(steps_per_epoch=10.0, total_steps=30)
  assert plan.evaluation_steps(1e-30) == frozenset(range(1, 31))
  assert plan.evaluation_steps(1.0) == {10, 20, 30}


def test_a_warm_up_that_is_cut_is_said(caplog):
  config = small()
  config.data.eval_mode = 'resize'
  config.num_epochs, config.optimizer.warmup_epochs = 6.0, 4.0
  run = settings.read(config, INFO)
  (record,) = caplog.records
  assert record.getMessage() == (
    'the warm-up of 4 epochs is cut to 3.01, half of this run: train for more epochs, or choose '
    '--config.optimizer.warmup_epochs.'
  )
  rates = [float(run.step.schedule(step)) for step in range(run.plan.total_steps)]
  assert rates.index(max(rates)) == run.plan.total_steps // 2
  caplog.clear()
  config.optimizer.warmup_epochs = 3.0
  settings.read(config, INFO)
  assert not caplog.records
