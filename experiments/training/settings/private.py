"""`config.private`: whether a run is private, what it may not do then, its budget and its step."""

import math

import jax
from ml_collections import ConfigDict

from experiments.data import DatasetInfo, DataSettings
from experiments.runtime.errors import ConfigError
from experiments.training import privacy_budget
from experiments.training.gradients import PrivateSettings
from nfnets import zoo
from nfnets.baselines import BaselineSpec


def is_private(config: ConfigDict) -> bool:
  """Whether the run of a config is private."""
  return config.private.epsilon is not None


def check(config: ConfigDict, spec: zoo.AnySpec) -> None:
  """Checks that nothing in a private run ties the examples of a batch together.

  Raises:
    ConfigError: something does; the sentence says what and why.
  """
  if not is_private(config):
    return
  if isinstance(spec, BaselineSpec) and spec.MIXES_EXAMPLES:
    raise ConfigError(
      f'{config.model.variant} cannot be trained privately: its batch normalisation mixes the '
      'examples of a batch, so that no gradient is of one example alone. Take a normalizer-free '
      'network, or WRN-16-4 with --config.model.variant.'
    )
  settings = DataSettings.from_config(config)
  for is_fault, sentence in (
    (
      settings.mixing != 'none',
      f'--config.data.mixing={settings.mixing} puts two examples into one picture, and privacy is '
      'counted for each alone: set --config.data.mixing=none.',
    ),
    (
      settings.augmentations_per_image > 1,
      'a private run draws each picture by itself, and averages the gradients of its augmented '
      'views before it clips them: set --config.data.augmentations_per_image=1, and '
      '--config.private.augmentation_multiplicity for the views.',
    ),
    (
      config.optimizer.sam_rho > 0,
      'SAM climbs along a gradient without noise, which a private run may not use: set '
      '--config.optimizer.sam_rho=0.',
    ),
    (
      config.accumulation_steps > 1,
      'a private run has microbatches in the place of slices: set --config.accumulation_steps=1, '
      'and --config.private.microbatch to what fits into the memory.',
    ),
    (
      config.finetune.linear_probe and config.private.augmentation_multiplicity > 1,
      'the features of a linear probe are computed once, without augmentation: set '
      '--config.private.augmentation_multiplicity=1.',
    ),
  ):
    if is_fault:
      raise ConfigError(sentence)


def make_budget(config: ConfigDict, info: DatasetInfo, steps: int) -> privacy_budget.Budget | None:
  """Returns the budget of a run of so many updates, and fills in what it decides in `config`.

  Args:
    config: unlocked; gets `private.delta` and `private.noise_multiplier`.
    info: of the data.
    steps: updates that are asked for.

  Returns:
    None for a run that is not private.

  Raises:
    ConfigError: the batch is larger than the training set; what `privacy_budget.make_budget` does.
  """
  private = config.private
  if not is_private(config):
    return None
  if config.global_batch_size > info.num_train:
    raise ConfigError(
      f'--config.global_batch_size is {config.global_batch_size}, and a private run draws a batch '
      f'from the {info.num_train} training pictures: take at most so many.'
    )
  budget = privacy_budget.make_budget(
    epsilon=private.epsilon,
    delta=private.delta,
    noise_multiplier=private.noise_multiplier,
    clipping_norm=private.clipping_norm,
    batch_size=config.global_batch_size,
    num_examples=info.num_train,
    steps=steps,
  )
  private.delta, private.noise_multiplier = budget.delta, budget.noise_multiplier
  return budget


def step_settings(
  config: ConfigDict, budget: privacy_budget.Budget | None
) -> PrivateSettings | None:
  """Returns what the step needs to know; None for a run that is not private."""
  if budget is None:
    return None
  most = math.ceil(budget.limit / jax.device_count())  # examples of a device
  return PrivateSettings(
    clipping_norm=budget.clipping_norm,
    noise_multiplier=budget.noise_multiplier,
    batch_size=budget.batch_size,
    views=config.private.augmentation_multiplicity,
    microbatch=min(config.private.microbatch, most),
  )
