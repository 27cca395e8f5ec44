"""From a config to the values of a run: what follows from other fields, and what is refused."""

import jax
import pytest

from configs import digits, nfnet_imagenet
from experiments.data import DatasetInfo, ImageLayout
from experiments.runtime.errors import ConfigError
from experiments.training import settings


def test_the_magnitude_follows_the_variant_unless_it_is_set():
  config = nfnet_imagenet.get_config('F0')
  assert settings.resolve(config).data.randaugment_magnitude == 5
  config.model.variant = 'F4'  # as a flag would, after the file was read
  resolved = settings.resolve(config).data
  assert (resolved.randaugment_magnitude, resolved.image_size) == (15, 384)
  config.data.randaugment_magnitude = 7.5
  assert settings.resolve(config).data.randaugment_magnitude == 7.5
  config.model.variant, config.model.spec = (
    'custom',
    {'width': (32,) * 4, 'depth': (1,) * 4, 'group_width': 8},
  )
  config.data.randaugment_magnitude = None
  with pytest.raises(ConfigError, match=r'custom has no RandAugment magnitude of its own: set'):
    settings.resolve(config)


def test_the_published_recipe():
  resolved = settings.resolve(nfnet_imagenet.get_config('F3')).data
  assert (resolved.mixing, resolved.mix_pairing) == ('mixup_cutmix', 'second_image')
  assert (resolved.augment, resolved.randaugment_layers) == ('randaugment', 4)
  assert tuple(resolved.order) == ('mix', 'augment', 'normalize')
  assert settings.resolve(digits.get_config()).data.mixing == 'none'


def test_fields_of_the_step_that_no_network_has_are_refused():
  for field, value, sentence in (
    ('remat', (4,), r'may name stages of \(0, 1, 2, 3\) here .* got \(4,\)'),
    (
      'stem_space_to_depth',
      'yes',
      r"stem_space_to_depth must be one of 'auto', 'on', 'off', got 'yes'",
    ),
  ):
    config = nfnet_imagenet.get_config('F0')
    config.model[field] = value
    with pytest.raises(ConfigError, match=sentence):
      settings.resolve(config)


@pytest.mark.parametrize(
  ('fields', 'backend', 'layout'),
  [
    ({}, 'tpu', (4, 'bfloat16')),
    ({}, 'gpu', (1, 'bfloat16')),
    ({'model.stem_space_to_depth': 'on'}, 'gpu', (4, 'bfloat16')),
    ({'data.space_to_depth': 'on'}, 'gpu', (4, 'bfloat16')),
    ({}, 'cpu', (1, 'float32')),
    ({'data.space_to_depth': 'on'}, 'cpu', (4, 'bfloat16')),
    ({'data.space_to_depth': 'off'}, 'tpu', (1, 'float32')),
    ({'compute_dtype': 'float32'}, 'tpu', (4, 'float32')),
    ({'model.stem_space_to_depth': 'off'}, 'tpu', (1, 'bfloat16')),
    ({'data.image_size': 190}, 'tpu', (1, 'bfloat16')),  # no multiple of 4: a plain stem
    ({'model.variant': 'NF-ResNet-50'}, 'tpu', (2, 'bfloat16')),
    ({'model.variant': 'EfficientNet-B0'}, 'tpu', (1, 'bfloat16')),
    # RandAugment ends in bytes, unless mixup follows it.
    ({'data.augment': 'randaugment'}, 'tpu', (4, 'uint8')),
    ({'data.augment': 'randaugment'}, 'cpu', (1, 'uint8')),
    (
      {'data.augment': 'randaugment', 'data.mean': (0.5, 0.4, 0.3)},
      'tpu',
      (4, 'uint8', (0.5, 0.4, 0.3)),
    ),
    ({'data.augment': 'autoaugment', 'data.space_to_depth': 'off'}, 'tpu', (1, 'uint8')),
    (
      {'data.augment': 'randaugment', 'data.order': ('augment', 'normalize', 'mix')},
      'tpu',
      (4, 'bfloat16'),
    ),
  ],
)
def test_images_are_handed_over_as_the_step_wants_them(fields, backend, layout):
  config = nfnet_imagenet.get_config()
  config.data.augment = 'none'
  config.update_from_flattened_dict(fields)
  info = DatasetInfo(1_281_167, 50_000, 1000, ())
  assert settings.read(config, info, backend).layout == ImageLayout(*layout)


def test_an_unknown_way_to_hand_images_over_is_refused():
  config = digits.get_config()
  config.data.space_to_depth = 'yes'
  with pytest.raises(ConfigError, match="data.space_to_depth must be one of .*, got 'yes'"):
    settings.resolve(config)


@pytest.mark.parametrize(
  ('fields', 'size'),
  [
    ({}, 64),
    ({'accumulation_steps': 4}, 16),
    ({'accumulation_steps': 64}, 1),
    ({'accumulation_steps': 4, 'data.eval_batch_size': 48}, 48),
  ],
)
def test_evaluation_takes_as_many_pictures_at_once_as_a_slice_of_training(fields, size):
  config = nfnet_imagenet.get_config()
  config.global_batch_size = 64
  config.update_from_flattened_dict(fields)
  assert settings.resolve(config).data.eval_batch_size == size


def test_the_batch_of_evaluation_is_never_to_blame_for_accumulation(monkeypatch):
  monkeypatch.setattr(jax, 'device_count', lambda: 4)
  config = nfnet_imagenet.get_config()
  config.global_batch_size, config.accumulation_steps = 32, 3
  with pytest.raises(ConfigError, match='accumulation_steps is 3, which does not divide'):
    settings.resolve(config)
  config.accumulation_steps = 8
  assert settings.resolve(config).data.eval_batch_size == 4
