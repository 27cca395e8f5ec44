"""The fields of a config: filled in where they follow from others, and checked."""

import dataclasses
import math
from collections.abc import Collection
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments import data
from experiments.runtime import profiling
from experiments.runtime import ranges as field_ranges
from experiments.runtime.errors import ConfigError
from experiments.training import initial_weights
from experiments.training.settings import by_size, private
from experiments.training.settings.ranges import FIELDS
from nfnets import ModelSpec, list_models, optim, zoo

# What a recipe may choose for weights that were trained otherwise.
_FREE_FIELDS = (
  'drop_rate',
  'stochdepth_rate',
  'skip_gain_init',
  'train_size',
  'test_size',
  'augment_magnitude',
)


def resolve(config: ConfigDict, pictures: data.TrainingPictures | None = None) -> ConfigDict:
  """Fills in what is derived from other fields and checks the rest. Returns a new config.

  Args:
    config: as a file and flags give it.
    pictures: to train on; None looks at them, if anything follows from them.

  Raises:
    ConfigError: a field has a value that no run can use; the sentence says what to do.
    DataError: the pictures cannot be counted.
    ValueError: the model cannot be built.
  """
  config = checked(config)
  profiling.parse(config.profile)
  if config.model.variant:
    _named_spec(config.model)
  with config.unlocked():
    if left_open := by_size.open_fields(config):
      sizes = not left_open.isdisjoint(by_size.OF_PICTURE_SIZES)
      pictures = pictures or data.look_at_training_pictures(config, sizes=sizes)
      by_size.fill_in(config, pictures, jax.device_count())
    if config.model.pretrained:
      _adopt_model(config.model)
      found = initial_weights.find_preprocessing(config.model.pretrained)
      if found is not None:
        data.adopt_normalization(config, found)
    spec = model_spec(config.model)
    if config.optimizer.clipping is None:
      config.optimizer.clipping = optim.clipping_for_batch(config.global_batch_size)
    data.fill_in(
      config,
      train_size=spec.train_size,
      test_size=spec.test_size,
      magnitude=spec.augment_magnitude,
      variant=config.model.variant,
      channels=zoo.input_shape(spec)[-1],
      num_devices=jax.device_count(),
    )
  _check_sharing(config)
  _check_repeats(config)
  _check_stages(config.model, spec)
  _check_finetuning(config.finetune, bool(config.model.pretrained), spec)
  private.check(config, spec)
  return config


def checked(config: ConfigDict) -> ConfigDict:
  """Returns a copy of a config each of whose fields, by itself, a run can use; or ConfigError."""
  config = config.copy_and_resolve_references()
  field_ranges.check(config, FIELDS)
  if config.model.variant is None and (config.model.spec or config.model.pretrained):
    config.model.variant = 'custom' if config.model.spec else ''
  return config


def model_spec(model: ConfigDict) -> zoo.AnySpec:
  """Returns the network that `config.model` describes, recipe overrides included.

  Raises:
    ConfigError: unknown variant, or a spec that gives no network.
  """
  changes = {
    field: model[field]
    for field in ('drop_rate', 'stochdepth_rate', 'activation', 'skip_gain_init')
    if model[field] is not None
  }
  spec = _named_spec(model)
  _require(
    isinstance(spec, ModelSpec) or 'skip_gain_init' not in changes,
    f'--config.model.skip_gain_init is for normalizer-free networks, and {spec.family} has no skip '
    'gains: set it to None.',
  )
  return spec.replace(**changes)


def _named_spec(model: ConfigDict) -> zoo.AnySpec:
  """The network of model.variant and model.spec, without the recipe's overrides."""
  if model.variant != 'custom':
    try:
      spec = zoo.get_spec(model.variant)
    except ValueError as error:
      raise ConfigError(f'--config.model.variant: {error}') from None
    if model.spec:
      raise ConfigError(
        f'--config.model.spec is only used with --config.model.variant=custom, but the variant is '
        f'{model.variant!r}: drop one of the two.'
      )
    return spec
  try:
    return zoo.spec_from_dict(model.spec.to_dict())
  except (ArithmeticError, LookupError, TypeError, ValueError) as error:
    raise ConfigError(f'--config.model.spec: {error}') from None


def of_weights(config: ConfigDict, path: str, given: Collection[str] = ()) -> ConfigDict:
  """Returns the config for the weights of a file: of their model, their pictures prepared for them.

  Args:
    config: what to use where the file says nothing.
    path: the file.
    given: fields of `config.data` that hold whatever the file says.

  Raises:
    ConfigError: a field has a value that no run can use.
    ValueError: no such file, or it cannot be read.
  """
  config = checked(config)
  with config.unlocked():
    config.model.pretrained = path
    if initial_weights.find_spec(path) is not None:
      config.model.variant, config.model.spec = '', {}
      for field in ('drop_rate', 'activation'):
        config.model[field] = None
    found = initial_weights.find_preprocessing(path)
    if found is not None:
      data.adopt_preprocessing(config, found, given)
  return config


def _adopt_model(model: ConfigDict) -> None:
  """Makes `config.model` (unlocked) describe the model of its weights.

  Raises:
    ConfigError: it names another model, or the weights do not say which one they are for.
    ValueError: as `initial_weights.find_spec`.
  """
  try:
    spec = initial_weights.find_spec(model.pretrained)
  except ValueError as error:
    raise ConfigError(f'--config.model.pretrained: {error}') from None
  if spec is None:
    if model.variant:
      return
    raise ConfigError(
      f'{model.pretrained} does not say which model it is for: set --config.model.variant (or '
      'custom there, with --config.model.spec), or save it with its spec.'
    )
  if model.variant:
    if _architecture(_named_spec(model)) != _architecture(spec):
      raise ConfigError(
        f'{model.pretrained} holds another model than --config.model.variant={model.variant}: '
        'leave that empty (and --config.model.spec too), then the weights say what they are.'
      )
    return
  same = (name for name in list_models() if zoo.get_spec(name) == spec)
  model.variant = next(same, 'custom')
  if model.variant == 'custom':
    model.spec = ConfigDict(spec.to_dict())


def _architecture(spec: zoo.AnySpec) -> dict[str, Any]:
  """The fields that decide what the weights mean."""
  return {k: v for k, v in dataclasses.asdict(spec).items() if k not in _FREE_FIELDS}


def _check_sharing(config: ConfigDict) -> None:
  """Whether the devices can share the batches."""
  devices = jax.device_count()
  for field, size in (
    ('global_batch_size', config.global_batch_size),
    ('data.eval_batch_size', data.DataSettings.from_config(config).eval_batch_size),
  ):
    _require(
      size % devices == 0,
      f'--config.{field} is {size}, which {devices} devices cannot share equally: '
      f'use a multiple, such as {math.ceil(size / devices) * devices}.',
    )
  per_device = config.global_batch_size // devices
  _require(
    per_device % config.accumulation_steps == 0,
    f'--config.accumulation_steps is {config.accumulation_steps}, which does not divide the '
    f'{per_device} images of each device.',
  )


def _check_repeats(config: ConfigDict) -> None:
  """Whether each picture can be in a batch `data.augmentations_per_image` times."""
  settings = data.DataSettings.from_config(config)
  settings.check_repeats(jax.process_count())
  _require(
    not (config.finetune.linear_probe and settings.augmentations_per_image > 1),
    'the features of a linear probe are computed once, without augmentation: set '
    '--config.data.augmentations_per_image=1.',
  )


def _check_stages(model: ConfigDict, spec: zoo.AnySpec) -> None:
  stages = range(len(spec.depth)) if isinstance(spec, ModelSpec) else ()
  _require(
    all(stage in stages for stage in model.remat),
    f'--config.model.remat may name stages of {tuple(stages)} here (only normalizer-free networks '
    f'have any), got {tuple(model.remat)}.',
  )


def _check_finetuning(finetune: ConfigDict, pretrained: bool, spec: zoo.AnySpec) -> None:
  if not pretrained:
    for field in ('linear_probe', 'frozen'):
      _require(
        not finetune[field],
        f'--config.finetune.{field} is for pretrained weights: set --config.model.pretrained to '
        'their name or file.',
      )
  classifier = f'{spec.family}/~/linear/w'
  covering = [prefix for prefix in finetune.frozen if optim.covers(prefix, classifier)]
  _require(
    not covering,
    f'--config.finetune.frozen covers the classifier {classifier} with {covering[:1]}: leave that '
    'to train.',
  )


def _require(condition: bool, sentence: str) -> None:
  if not condition:
    raise ConfigError(sentence)
