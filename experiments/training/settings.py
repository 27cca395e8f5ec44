"""From a config with its overrides to the values that a run uses; its checks are here."""

import dataclasses
import math
from typing import Any

import haiku as hk
import jax
import ml_collections
import optax

from experiments.data.batch import NATURAL_LAYOUT, ImageLayout
from experiments.runtime import profiling
from experiments.runtime.errors import ConfigError
from experiments.training import initial_weights
from experiments.training.steps import StepSettings
from nfnets import ModelSpec, create_model, optim, stem, zoo

# Fields that change how a run is carried out but not what it computes; a resumed run may differ.
NEUTRAL_FIELDS = frozenset(
  {
    'compilation_cache',
    'keep_freed_memory',
    'log_every_steps',
    'evaluate_every_epochs',
    'checkpoint_every_steps',
    'keep_checkpoints',
    'on_nonfinite',
    'on_save_failure',
    'profile',
    'data.dir',
    'data.eval_batch_size',
    'data.max_corrupt_fraction',
    'data.num_threads',
    'data.num_workers',
    'data.packed_images',
    'model.packed_stem',
    'model.remat',
  }
)


def model_spec(config: ml_collections.ConfigDict) -> zoo.AnySpec:
  """Returns the network that the config describes, recipe overrides included.

  Raises:
    ValueError: unknown variant or activation, or a spec that gives no network.
  """
  model = config.model
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


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Fills in what is derived from other fields and checks the rest. Returns a new config.

  Raises:
    ConfigError: a field has a value that no run can use; the sentence says what to do.
    ValueError: the model cannot be built.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    if config.model.pretrained:
      initial_weights.adopt_model(config)
    spec = model_spec(config)
    if config.optimizer.clipping is None:
      config.optimizer.clipping = optim.clipping_for_batch(max(1, config.global_batch_size))
    data = config.data
    data.image_size = data.image_size or spec.train_size
    data.eval_image_size = data.eval_image_size or spec.test_size
    data.eval_batch_size = data.eval_batch_size or config.global_batch_size
    if data.augment == 'randaugment' and data.randaugment_magnitude is None:
      _require(
        spec.augment_magnitude > 0,
        f'{config.model.variant} has no RandAugment magnitude of its own: set '
        "data.randaugment_magnitude (published: 5 to 15), or data.augment='none'.",
      )
      data.randaugment_magnitude = float(spec.augment_magnitude)

  for field in ('global_batch_size', 'accumulation_steps', 'log_every_steps', 'keep_checkpoints'):
    _require(config[field] >= 1, f'{field} must be at least 1, got {config[field]}.')
  _require(
    config.compute_dtype in ('float32', 'bfloat16'),
    f"compute_dtype must be 'float32' or 'bfloat16', got {config.compute_dtype!r}.",
  )
  for field, choices in (
    ('on_nonfinite', ('stop', 'skip')),
    ('on_save_failure', ('stop', 'continue')),
  ):
    _require(config[field] in choices, f'{field} must be one of {choices}, got {config[field]!r}.')
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
  stages = range(len(spec.depth)) if isinstance(spec, ModelSpec) else ()
  _require(
    all(stage in stages for stage in config.model.remat),
    f'model.remat may name stages of {tuple(stages)} here (only normalizer-free networks have any),'
    f' got {tuple(config.model.remat)}.',
  )
  _require(
    config.model.packed_stem in stem.PACKINGS,
    f'model.packed_stem must be one of {stem.PACKINGS}, got {config.model.packed_stem!r}.',
  )
  _require(
    config.data.packed_images in stem.PACKINGS,
    f'data.packed_images must be one of {stem.PACKINGS}, got {config.data.packed_images!r}.',
  )
  profiling.parse(config.profile)
  _check_optimizer(config.optimizer)
  _check_finetuning(config)
  return config


def _check_optimizer(fields: ml_collections.ConfigDict) -> None:
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


def _check_finetuning(config: ml_collections.ConfigDict) -> None:
  finetune = config.finetune
  if not config.model.pretrained:
    for field in ('linear_probe', 'frozen'):
      _require(
        not finetune[field],
        f'finetune.{field} is for pretrained weights: set model.pretrained to their name or file.',
      )
  classifier = f'{model_spec(config).family}/~/linear/w'
  covering = [prefix for prefix in finetune.frozen if classifier.startswith(prefix)]
  _require(
    not covering,
    f'finetune.frozen covers the classifier {classifier} with {covering[:1]}: leave that to train.',
  )


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


def image_layout(config: ml_collections.ConfigDict, backend: str) -> ImageLayout:
  """Returns how the host hands the images of a train step on this backend over.

  For an accelerator the host rounds them to the step's dtype and packs them as the stem does first:
  the same values, half the bytes to send, and nothing to rearrange on the device.
  """
  chosen = config.data.packed_images
  if chosen == 'off' or (chosen == 'auto' and backend == 'cpu'):
    return NATURAL_LAYOUT
  spec, size = model_spec(config), config.data.image_size
  packed = None
  if isinstance(spec, ModelSpec) and config.model.packed_stem != 'off':
    packed = stem.plan(spec.stem, (size, size))
  return ImageLayout(packed[0].in_block if packed else 1, config.compute_dtype)


def make_optimizer(
  config: ml_collections.ConfigDict, plan: Plan, layout: ImageLayout = NATURAL_LAYOUT
) -> tuple[optax.GradientTransformation, StepSettings]:
  """Returns the optimiser chain and what the train step needs to know beside it.

  Args:
    config: resolved.
    plan: from `make_plan`.
    layout: of the images that the step will get.
  """
  fields = config.optimizer
  peak = fields.learning_rate * config.global_batch_size / 256
  schedule = optim.warmup_cosine(
    peak=peak,
    warmup_steps=min(fields.warmup_epochs * plan.steps_per_epoch, 0.5 * plan.total_steps),
    total_steps=plan.total_steps,
    floor=fields.final_learning_rate,
  )
  options = {
    'weight_decay': fields.weight_decay,
    'clipping': fields.clipping or None,
    'eps': fields.clipping_eps,
  }
  if fields.name == 'adamw':
    optimizer = optim.nfnet_adamw(schedule, b1=fields.adam_b1, b2=fields.adam_b2, **options)
  else:
    optimizer = optim.nfnet_sgd(schedule, momentum=fields.momentum, **options)
  frozen = tuple(config.finetune.frozen)
  optimizer = optim.by_layer(
    optimizer, frozen=frozen, multipliers=config.finetune.learning_rate_multipliers.to_dict()
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
    sam_rho=fields.sam_rho,
    sam_ascent_share=fields.sam_ascent_share,
    frozen=frozen,
    stage_depths=getattr(model_spec(config), 'depth', None),
    remat=tuple(config.model.remat),
    packed_stem=config.model.packed_stem,
    image_block=layout.block,
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
