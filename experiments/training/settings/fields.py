"""The fields of a config: filled in where they follow from others, and checked."""

import dataclasses
import math
from typing import Any

import jax
from ml_collections import ConfigDict

from experiments import data
from experiments.runtime import profiling
from experiments.runtime.errors import ConfigError
from experiments.training import initial_weights, nonfinite
from nfnets import ModelSpec, list_models, optim, zoo
from nfnets.execution.context import SPACE_TO_DEPTH

# What a recipe may choose for weights that were trained otherwise.
_FREE_FIELDS = ('drop_rate', 'stochdepth_rate', 'train_size', 'test_size', 'augment_magnitude')


def resolve(config: ConfigDict) -> ConfigDict:
  """Fills in what is derived from other fields and checks the rest. Returns a new config.

  Raises:
    ConfigError: a field has a value that no run can use; the sentence says what to do.
    ValueError: the model cannot be built.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    if config.model.pretrained:
      _adopt_model(config.model)
    spec = model_spec(config.model)
    if config.optimizer.clipping is None:
      config.optimizer.clipping = optim.clipping_for_batch(max(1, config.global_batch_size))
    data.fill_in(
      config,
      train_size=spec.train_size,
      test_size=spec.test_size,
      magnitude=spec.augment_magnitude,
      variant=config.model.variant,
      num_devices=jax.device_count(),
    )
  _check_run(config)
  _check_sharing(config)
  _check_model(config.model, spec)
  profiling.parse(config.profile)
  _check_optimizer(config.optimizer)
  _check_finetuning(config.finetune, bool(config.model.pretrained), spec)
  return config


def model_spec(model: ConfigDict) -> zoo.AnySpec:
  """Returns the network that `config.model` describes, recipe overrides included.

  Raises:
    ValueError: unknown variant or activation, or a spec that gives no network.
  """
  if model.variant == 'custom':
    spec = zoo.spec_from_dict(model.spec.to_dict())
  else:
    if model.spec:
      raise ConfigError(
        f"model.spec is only used with model.variant='custom', but the variant is "
        f'{model.variant!r}: drop one of the two.'
      )
    spec = zoo.get_spec(model.variant)
  changes = {
    field: model[field]
    for field in ('drop_rate', 'stochdepth_rate', 'activation')
    if model[field] is not None
  }
  return spec.replace(**changes)


def of_weights(config: ConfigDict, path: str) -> ConfigDict:
  """Returns the config for the weights of a file, which may say themselves which model they are of.

  Raises:
    ValueError: no such file, or it cannot be read.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.pretrained = path
    if initial_weights.find_spec(path) is not None:
      config.model.variant, config.model.spec = '', {}
      for field in ('drop_rate', 'activation'):
        config.model[field] = None
  return config


def _adopt_model(model: ConfigDict) -> None:
  """Makes `config.model` (unlocked) describe the model of its weights.

  Raises:
    ConfigError: it names another model, or the weights do not say which one they are for.
    ValueError: as `initial_weights.find_spec`.
  """
  spec = initial_weights.find_spec(model.pretrained)
  if spec is None:
    if model.variant:
      return
    raise ConfigError(
      f'{model.pretrained} does not say which model it is for: set model.variant (or '
      "model.variant='custom' with model.spec), or save it with its spec."
    )
  if model.variant:
    named = model.spec.to_dict() if model.variant == 'custom' else None
    said = zoo.get_spec(model.variant) if named is None else zoo.spec_from_dict(named)
    if _architecture(said) != _architecture(spec):
      raise ConfigError(
        f'{model.pretrained} holds another model than model.variant={model.variant!r}: set '
        "model.variant='' (and no model.spec), then the weights say what they are."
      )
    return
  same = (name for name in list_models() if zoo.get_spec(name) == spec)
  model.variant = next(same, 'custom')
  if model.variant == 'custom':
    model.spec = ConfigDict(spec.to_dict())


def _architecture(spec: zoo.AnySpec) -> dict[str, Any]:
  """The fields that decide what the weights mean."""
  return {k: v for k, v in dataclasses.asdict(spec).items() if k not in _FREE_FIELDS}


def _check_run(config: ConfigDict) -> None:
  for field in ('global_batch_size', 'accumulation_steps', 'log_every_steps', 'keep_checkpoints'):
    _require(config[field] >= 1, f'{field} must be at least 1, got {config[field]}.')
  _require(
    config.compute_dtype in ('float32', 'bfloat16'),
    f"compute_dtype must be 'float32' or 'bfloat16', got {config.compute_dtype!r}.",
  )
  for field, choices in (
    ('on_nonfinite', nonfinite.CHOICES),
    ('on_save_failure', ('stop', 'continue')),
  ):
    _require(config[field] in choices, f'{field} must be one of {choices}, got {config[field]!r}.')
  _require(config.num_epochs > 0, f'num_epochs must be positive, got {config.num_epochs}.')
  _require(
    0 <= config.label_smoothing < 1,
    f'label_smoothing must be in [0, 1), got {config.label_smoothing}.',
  )


def _check_sharing(config: ConfigDict) -> None:
  """Whether the devices can share the batches."""
  devices = jax.device_count()
  for field, size in (
    ('global_batch_size', config.global_batch_size),
    ('data.eval_batch_size', data.DataSettings.from_config(config).eval_batch_size),
  ):
    _require(
      size % devices == 0,
      f'{field} is {size}, which {devices} devices cannot share equally: '
      f'use a multiple, such as {math.ceil(size / devices) * devices}.',
    )
  per_device = config.global_batch_size // devices
  _require(
    per_device % config.accumulation_steps == 0,
    f'accumulation_steps is {config.accumulation_steps}, which does not divide the {per_device} '
    'images of each device.',
  )


def _check_model(model: ConfigDict, spec: zoo.AnySpec) -> None:
  stages = range(len(spec.depth)) if isinstance(spec, ModelSpec) else ()
  _require(
    all(stage in stages for stage in model.remat),
    f'model.remat may name stages of {tuple(stages)} here (only normalizer-free networks have any),'
    f' got {tuple(model.remat)}.',
  )
  _require(
    model.stem_space_to_depth in SPACE_TO_DEPTH,
    f'model.stem_space_to_depth must be one of {SPACE_TO_DEPTH}, got '
    f'{model.stem_space_to_depth!r}.',
  )


def _check_optimizer(fields: ConfigDict) -> None:
  _require(
    fields.name in ('sgd', 'adamw'),
    f"optimizer.name must be 'sgd' (Nesterov, as published) or 'adamw', got {fields.name!r}.",
  )
  _require(
    0 <= fields.sam_rho < math.inf,
    f'optimizer.sam_rho must be 0 (no SAM) or positive (published: 0.05), got {fields.sam_rho}.',
  )
  _require(
    0 < fields.sam_ascent_share <= 1,
    'optimizer.sam_ascent_share is the share of the batch that SAM climbs with, above 0 and at '
    f'most 1 (published: 0.2), got {fields.sam_ascent_share}.',
  )


def _check_finetuning(finetune: ConfigDict, pretrained: bool, spec: zoo.AnySpec) -> None:
  if not pretrained:
    for field in ('linear_probe', 'frozen'):
      _require(
        not finetune[field],
        f'finetune.{field} is for pretrained weights: set model.pretrained to their name or file.',
      )
  classifier = f'{spec.family}/~/linear/w'
  covering = [prefix for prefix in finetune.frozen if optim.covers(prefix, classifier)]
  _require(
    not covering,
    f'finetune.frozen covers the classifier {classifier} with {covering[:1]}: leave that to train.',
  )


def _require(condition: bool, sentence: str) -> None:
  if not condition:
    raise ConfigError(sentence)
