"""A run: what a config comes to, once it is known how many pictures and classes there are."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import optax
from absl import logging
from ml_collections import ConfigDict

from experiments import data
from experiments.data import NATURAL_LAYOUT, DatasetInfo, DataSettings, ImageLayout
from experiments.runtime.errors import ConfigError
from experiments.training.gradients import PrivateSettings, StepSettings
from experiments.training.privacy_budget import Budget
from experiments.training.settings import by_size, fields, private
from nfnets import ModelSpec, create_model, optim, zoo
from nfnets.backbone import stem_block

_MOST_STEPS = 2**31 - 1  # the counter of the updates is an int32


@dataclasses.dataclass(frozen=True)
class Plan:
  """The length of a run, in updates."""

  steps_per_epoch: float
  total_steps: int

  @property
  def epochs(self) -> float:
    """The same in epochs: whole updates, so not quite what was asked for."""
    return self.total_steps / self.steps_per_epoch

  def evaluation_steps(self, every_epochs: float) -> frozenset[int]:
    """The steps after which to evaluate: every so many epochs (0: never), and the last."""
    steps = {self.total_steps}
    if every_epochs > 0:
      interval = max(1.0, every_epochs * self.steps_per_epoch)  # more often than each is each
      count = int(self.total_steps / interval)
      steps |= {max(1, round(interval * i)) for i in range(1, count + 1)}
    return frozenset(steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """All that a config says, in types. What has a field of its own there is explained there.

  Attributes:
    config: the config with every field filled in, as `config.json` and `report.json` keep it.
    left_open: fields of it that the number of training pictures decided.
    variant: the network's name.
    spec: its numbers, with what the recipe changes of them.
    num_classes: of its logits; the data may have fewer.
    network: apply(params, state, key, images, is_training).
    info: of the data set.
    data: what decides the batches.
    layout: of the images in a training batch.
    plan: how long it is.
    budget: of a private run, else None.
    optimizer: the chain of the updates.
    step: what the train step needs beside network and optimiser.
    sam_timing: whether to measure what SAM adds to a step.
    sharded_update: whether the devices share the update, one of `update_sharding.CHOICES`.
    pretrained: the weights to start from; '': fresh ones.
    new_head: whether they get a new classifier.
    linear_probe: whether that is all that is trained.
  """

  config: Mapping[str, Any]
  left_open: frozenset[str]
  variant: str
  spec: zoo.AnySpec
  num_classes: int
  network: hk.TransformedWithState
  info: DatasetInfo
  data: DataSettings
  layout: ImageLayout
  plan: Plan
  budget: Budget | None
  optimizer: optax.GradientTransformation
  step: StepSettings
  sam_timing: bool
  sharded_update: str
  pretrained: str
  new_head: bool
  linear_probe: bool
  evaluate_every_epochs: float
  log_every_steps: int
  checkpoint_every_steps: int
  keep_checkpoints: int
  on_save_failure: str
  on_nonfinite: str
  profile: str

  @property
  def model_title(self) -> str:
    """What lines and pictures call the network: a custom one has no name of its own."""
    return f'custom {self.spec.family}' if self.variant == 'custom' else self.variant


def read(config: ConfigDict, info: DatasetInfo | None = None, backend: str | None = None) -> Run:
  """Reads a config.

  Args:
    config: as a file and flags give it.
    info: of the data set; None looks at it.
    backend: that the train step is for; None is JAX's own.

  Raises:
    ConfigError: a field has a value that no run can use; the sentence says what to do.
    DataError: the data are not as the config says.
    ValueError: the model cannot be built.
  """
  left_open = by_size.open_fields(fields.checked(config))
  config = fields.resolve(config, None if info is None else data.TrainingPictures(info.num_train))
  settings = DataSettings.from_config(config)
  info = info or data.describe(settings)
  num_classes = _num_classes(config.model.num_classes, info.num_classes)
  plan = _make_plan(config.num_epochs, info.num_train, settings)
  data.warn_of_lost_borders(settings)
  by_size.warn_of_few_updates(config, settings, info.num_train, plan.total_steps)
  with config.unlocked():
    budget = private.make_budget(config, info, plan.total_steps)
  spec = fields.model_spec(config.model)
  probing = config.finetune.linear_probe
  layout = NATURAL_LAYOUT  # of the features that a linear probe is given
  if not probing:
    layout = _image_layout(config, spec, settings, backend or jax.default_backend())
  schedule = _make_schedule(config, plan)
  if budget is not None:  # its noise may not allow all steps
    plan = dataclasses.replace(plan, total_steps=budget.steps)
  return Run(
    config=config.to_dict(),
    left_open=left_open,
    variant=config.model.variant,
    spec=spec,
    num_classes=num_classes,
    network=_make_network(spec, num_classes),
    info=info,
    data=settings,
    layout=layout,
    plan=plan,
    budget=budget,
    optimizer=_make_optimizer(config, schedule),
    step=_step_settings(config, spec, schedule, layout, private.step_settings(config, budget)),
    sam_timing=config.optimizer.sam_timing,
    sharded_update=config.optimizer.sharded_update,
    pretrained=config.model.pretrained,
    new_head=config.finetune.new_head,
    linear_probe=probing,
    evaluate_every_epochs=config.evaluate_every_epochs,
    log_every_steps=config.log_every_steps,
    checkpoint_every_steps=config.checkpoint_every_steps,
    keep_checkpoints=config.keep_checkpoints,
    on_save_failure=config.on_save_failure,
    on_nonfinite=config.on_nonfinite,
    profile=config.profile,
  )


class Evaluation(NamedTuple):
  """What it takes to evaluate the weights of a file."""

  data: DataSettings
  info: DatasetInfo
  spec: zoo.AnySpec
  num_classes: int | None  # of the config; None: as many as the weights have

  def network(self, num_classes: int) -> hk.TransformedWithState:
    """Its pure functions."""
    return _make_network(self.spec, num_classes)


def read_evaluation(config: ConfigDict, path: str, given: Collection[str] = ()) -> Evaluation:
  """Reads what it takes to evaluate the weights of a file.

  Args:
    config: its model, and how it prepares pictures, are used only if the file does not say.
    path: the file.
    given: fields of `config.data` that hold whatever the file says.

  Raises:
    ValueError: as `read`, or the file cannot be read.
  """
  config = fields.resolve(fields.of_weights(config, path, given))
  settings = DataSettings.from_config(config)
  spec = fields.model_spec(config.model)
  return Evaluation(settings, data.describe(settings), spec, config.model.num_classes)


def _num_classes(chosen: int | None, in_data: int) -> int:
  """The number of logits: the config's, or as many as there are classes in the data."""
  chosen = chosen or in_data
  if chosen < in_data:
    raise ConfigError(
      f'--config.model.num_classes is {chosen}, but the data has {in_data} classes: leave the '
      'field out.'
    )
  return chosen


def _make_network(spec: zoo.AnySpec, num_classes: int) -> hk.TransformedWithState:
  return hk.transform_with_state(
    lambda images, is_training: create_model(spec, num_classes)(images, is_training)
  )


def _make_plan(num_epochs: float, num_train: int, settings: DataSettings) -> Plan:
  batch_size, repeats = settings.global_batch_size, settings.augmentations_per_image
  images = f'{num_train} images{by_size.each_in_batch(repeats)}'
  steps_per_epoch = num_train * repeats / batch_size
  total_steps = round(num_epochs * steps_per_epoch)
  if total_steps < 1:
    raise ConfigError(
      f'--config.num_epochs={num_epochs} of {images} are less than one batch of '
      f'{batch_size}: train longer or use a smaller --config.global_batch_size.'
    )
  if total_steps > _MOST_STEPS:
    raise ConfigError(
      f'--config.num_epochs={num_epochs} of {images} in batches of {batch_size} are '
      f'{total_steps:,} updates, and a run counts at most {_MOST_STEPS:,}: train for fewer epochs.'
    )
  return Plan(steps_per_epoch, total_steps)


def _image_layout(
  config: ConfigDict, spec: zoo.AnySpec, settings: DataSettings, backend: str
) -> ImageLayout:
  """How the host hands the images of a train step on this backend over.

  Where the recipe ends in bytes, they are sent as bytes, and the device normalises them. For an
  accelerator the host also rounds what are no bytes to the step's dtype and, where the stem works
  on squares of pixels, packs them: the same values, fewer bytes to send, and nothing to rearrange
  on the device.
  """
  chosen = settings.space_to_depth
  if chosen == 'off' or (chosen == 'auto' and backend == 'cpu'):
    return settings.train_layout()
  block = 1
  stem = config.model.stem_space_to_depth
  is_packed = stem == 'on' or (stem == 'auto' and (chosen == 'on' or backend == 'tpu'))
  if isinstance(spec, ModelSpec) and is_packed:
    block = stem_block(spec, settings.train_shape[:2])
  return settings.train_layout(block, config.compute_dtype)


def _make_schedule(config: ConfigDict, plan: Plan) -> optax.Schedule:
  chosen = config.optimizer
  peak = chosen.learning_rate * config.global_batch_size / 256
  if chosen.schedule == 'cosine' and chosen.final_learning_rate > peak:
    raise ConfigError(
      f'--config.optimizer.final_learning_rate is {chosen.final_learning_rate}, above the highest '
      f'rate {peak:g}, which is --config.optimizer.learning_rate={chosen.learning_rate} for each '
      f'256 of the batch of {config.global_batch_size}: lower the one or raise the other.'
    )
  longest = 0.5 * plan.epochs
  if chosen.warmup_epochs > longest:
    logging.warning(
      '%s',
      f'the warm-up of {chosen.warmup_epochs:g} epochs is cut to {longest:.3g}, half of this run: '
      'train for more epochs, or choose --config.optimizer.warmup_epochs.',
    )
  return optim.warmup_cosine(
    peak=peak,
    warmup_steps=min(chosen.warmup_epochs * plan.steps_per_epoch, 0.5 * plan.total_steps),
    total_steps=plan.total_steps,
    floor=peak if chosen.schedule == 'constant' else chosen.final_learning_rate,
  )


def _frozen(config: ConfigDict) -> tuple[str, ...]:
  # Prefixes name parameters that the classifier alone does not have.
  return () if config.finetune.linear_probe else tuple(config.finetune.frozen)


def _make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
  chosen, finetune = config.optimizer, config.finetune
  options = {
    'weight_decay': chosen.weight_decay,
    'clipping': chosen.clipping or None,
    'eps': chosen.clipping_eps,
  }
  if chosen.name == 'adamw':
    optimizer = optim.nfnet_adamw(schedule, b1=chosen.adam_b1, b2=chosen.adam_b2, **options)
  else:
    optimizer = optim.nfnet_sgd(schedule, momentum=chosen.momentum, **options)
  multipliers = {} if finetune.linear_probe else finetune.learning_rate_multipliers.to_dict()
  return optim.by_layer(optimizer, frozen=_frozen(config), multipliers=multipliers)


def _step_settings(
  config: ConfigDict,
  spec: zoo.AnySpec,
  schedule: optax.Schedule,
  layout: ImageLayout,
  of_private: PrivateSettings | None,
) -> StepSettings:
  return StepSettings(
    schedule=schedule,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
    compute_dtype=config.compute_dtype,
    accumulation_steps=config.accumulation_steps,
    clipping=config.optimizer.clipping or None,
    clipping_eps=config.optimizer.clipping_eps,
    seed=config.seed,
    sam_rho=config.optimizer.sam_rho,
    sam_ascent_share=config.optimizer.sam_ascent_share,
    frozen=_frozen(config),
    stage_depths=getattr(spec, 'depth', None),
    remat=tuple(config.model.remat),
    stem_space_to_depth=config.model.stem_space_to_depth,
    minimal_filtering=config.model.minimal_filtering,
    layout=layout,
    private=of_private,
  )
