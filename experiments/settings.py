"""From a config with its overrides to the values that a run uses; its checks are here."""

import dataclasses
import math
from typing import Any

import haiku as hk
import jax
import ml_collections
import optax

from experiments.errors import ConfigError
from experiments.steps import StepSettings
from nfnets import create_model, optim, zoo
from nfnets.spec import ModelSpec

# Fields that change how a run is carried out but not what it computes; a resumed run may differ.
NEUTRAL_FIELDS = frozenset(
  {
    'log_every_steps',
    'evaluate_every_epochs',
    'checkpoint_every_steps',
    'keep_checkpoints',
    'data.dir',
    'data.eval_batch_size',
    'data.max_corrupt_fraction',
    'data.num_threads',
    'data.num_workers',
  }
)


def model_spec(config: ml_collections.ConfigDict) -> ModelSpec:
  """Returns the network that the config describes, recipe overrides included.

  Raises:
    ValueError: unknown variant or activation, or a spec that gives no network.
  """
  model = config.model
  if model.variant == 'custom':
    spec = ModelSpec.from_dict(model.spec.to_dict())
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


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Fills in what is derived from other fields and checks the rest. Returns a new config.

  Raises:
    ConfigError: a field has a value that no run can use; the sentence says what to do.
    ValueError: the model cannot be built.
  """
  config = config.copy_and_resolve_references()
  spec = model_spec(config)
  with config.unlocked():
    data = config.data
    data.image_size = data.image_size or spec.train_size
    data.eval_image_size = data.eval_image_size or spec.test_size
    data.eval_batch_size = data.eval_batch_size or config.global_batch_size

  for field in ('global_batch_size', 'accumulation_steps', 'log_every_steps', 'keep_checkpoints'):
    _require(config[field] >= 1, f'{field} must be at least 1, got {config[field]}.')
  _require(
    config.compute_dtype in ('float32', 'bfloat16'),
    f"compute_dtype must be 'float32' or 'bfloat16', got {config.compute_dtype!r}.",
  )
  _require(config.num_epochs > 0, f'num_epochs must be positive, got {config.num_epochs}.')
  _require(
    0 <= config.label_smoothing < 1,
    f'label_smoothing must be in [0, 1), got {config.label_smoothing}.',
  )
  devices = jax.device_count()
  for field, size in (
    ('global_batch_size', config.global_batch_size),
    ('data.eval_batch_size', config.data.eval_batch_size),
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
  return config


def _require(condition: bool, sentence: str) -> None:
  if not condition:
    raise ConfigError(sentence)


def num_classes(config: ml_collections.ConfigDict, in_data: int) -> int:
  """Returns the number of logits: the config's, or as many as there are classes in the data.

  Raises:
    ConfigError: the data has more classes than the config gives logits.
  """
  chosen = config.model.num_classes or in_data
  _require(
    chosen >= in_data,
    f'model.num_classes is {chosen}, but the data has {in_data} classes: leave the field out.',
  )
  return chosen


def make_network(config: ml_collections.ConfigDict, num_classes: int) -> hk.TransformedWithState:
  """Returns the network's pure functions: apply(params, state, key, images, is_training)."""
  spec = model_spec(config)
  return hk.transform_with_state(
    lambda images, is_training: create_model(spec, num_classes)(images, is_training)
  )


@dataclasses.dataclass(frozen=True)
class Plan:
  """The length of a run, in updates."""

  steps_per_epoch: float
  total_steps: int

  def evaluation_steps(self, every_epochs: float) -> frozenset[int]:
    """The steps after which to evaluate: every so many epochs (0: never), and the last."""
    steps = {self.total_steps}
    if every_epochs > 0:
      interval = every_epochs * self.steps_per_epoch
      count = int(self.total_steps / interval)
      steps |= {max(1, round(interval * i)) for i in range(1, count + 1)}
    return frozenset(steps)


def make_plan(config: ml_collections.ConfigDict, num_train: int) -> Plan:
  """Returns the run's length for `num_train` examples an epoch.

  Raises:
    ConfigError: the run would have no step.
  """
  steps_per_epoch = num_train / config.global_batch_size
  total_steps = round(config.num_epochs * steps_per_epoch)
  _require(
    total_steps >= 1,
    f'{config.num_epochs} epochs of {num_train} images are less than one batch of '
    f'{config.global_batch_size}: train longer or use a smaller global_batch_size.',
  )
  return Plan(steps_per_epoch, total_steps)


def make_optimizer(
  config: ml_collections.ConfigDict, plan: Plan
) -> tuple[optax.GradientTransformation, StepSettings]:
  """Returns the optimiser chain and what the train step needs to know beside it."""
  fields = config.optimizer
  peak = fields.learning_rate * config.global_batch_size / 256
  schedule = optim.warmup_cosine(
    peak=peak,
    warmup_steps=min(fields.warmup_epochs * plan.steps_per_epoch, 0.5 * plan.total_steps),
    total_steps=plan.total_steps,
    floor=fields.final_learning_rate,
  )
  optimizer = optim.nfnet_sgd(
    schedule,
    momentum=fields.momentum,
    weight_decay=fields.weight_decay,
    clipping=fields.clipping or None,
    eps=fields.clipping_eps,
  )
  settings = StepSettings(
    schedule=schedule,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
    compute_dtype=config.compute_dtype,
    accumulation_steps=config.accumulation_steps,
    clipping=fields.clipping or None,
    clipping_eps=fields.clipping_eps,
    seed=config.seed,
  )
  return optimizer, settings


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = '') -> list[str]:
  """Returns 'field: old -> new' for the fields in which two configs would compute differently."""
  found = []
  for key in sorted({*old, *new}):
    path = f'{prefix}{key}'
    a, b = old.get(key), new.get(key)
    if isinstance(a, dict) and isinstance(b, dict):
      found += differences(a, b, f'{path}.')
    elif path not in NEUTRAL_FIELDS and a != b:
      found.append(f'{path}: {a!r} -> {b!r}')
  return found
