"""What a config leaves open and the number of training pictures decides.

An epoch of 48 pictures is not one batch of 64, so what suits thousands of pictures teaches a
network nothing of a few dozen. A field of `FIELDS` that is None is filled in here; one that has a
value stays. From a thousand pictures on, the number decides no more than how often to log.
"""

import math
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from experiments.data import DataSettings, TrainingPictures

FEWEST_UPDATES = 100  # a run of fewer is warned of: a new network has learnt next to nothing
_POINTS = 40  # of a training curve, at least
_MOST_STEPS_A_POINT = 50
_EVALUATIONS = 20
_FEWER_EPOCHS_FROM = 5_000  # training pictures, where the network is chosen here too


class Scale(NamedTuple):
  """What suits sets of fewer pictures than `below`.

  The learning rate goes with the square root of the batch: per 256 images, a batch of 16 has twice
  the rate of one of 64.
  """

  below: float  # training pictures
  batch: int
  network: dict[str, Any]  # fields of nfnets.ModelSpec


_NARROW = {
  'width': (32, 64, 128, 128),
  'depth': (1, 1, 2, 1),
  'group_width': 16,
  'drop_rate': 0.2,
  'train_size': 64,
  'test_size': 64,
}
_WIDE = {
  'width': (64, 128, 256, 256),
  'depth': (1, 2, 3, 2),
  'group_width': 16,
  'drop_rate': 0.2,
  'train_size': 96,
  'test_size': 128,
}
SCALES = (
  Scale(250, 16, _NARROW),
  Scale(1000, 32, _NARROW),
  Scale(math.inf, 64, _WIDE),
)


_SMALL_SIDE = 48  # pixels: up to here pictures are small ones, like CIFAR's and MNIST's


def _for_small_pictures(side: int) -> dict[str, Any]:
  """A network at the pictures' own size, which a stem that quarters it would leave too coarse."""
  size = min(max(4 * math.ceil(side / 4), 16), _SMALL_SIDE)
  return {
    'width': (48, 96, 192),
    'depth': (1, 2, 2),
    'stride': (1, 2, 2),
    'group_width': 16,
    'stem': ((3, 1, 16), (3, 2, 32)),
    'drop_rate': 0.2,
    'train_size': size,
    'test_size': size,
  }


class Course(NamedTuple):
  """How long a run is, by what it starts from."""

  epochs: float
  least_updates: int  # however many epochs those are
  warmup_share: float  # of the epochs
  rate: float  # learning rate per 256 images, at a batch of 64


FROM_SCRATCH = Course(epochs=60.0, least_updates=400, warmup_share=1 / 12, rate=0.4)
# [NFNet] section 6: a third is warm-up, and 0.1 at a batch of 2,048 is 0.0125 per 256 images.
FINE_TUNING = Course(epochs=30.0, least_updates=200, warmup_share=1 / 3, rate=0.0125)

FIELDS = (
  'global_batch_size',
  'num_epochs',
  'log_every_steps',
  'evaluate_every_epochs',
  'model.variant',
  'optimizer.learning_rate',
  'optimizer.warmup_epochs',
  'data.crop',
  'data.eval_mode',
)
# Those that follow from the sizes of the pictures too.
OF_PICTURE_SIZES = frozenset({'model.variant', 'data.crop', 'data.eval_mode'})


def open_fields(config: ConfigDict) -> frozenset[str]:
  """Returns the fields of a config that the number of training pictures decides."""
  return frozenset(field for field in FIELDS if _get(config, field) is None)


def fill_in(config: ConfigDict, pictures: TrainingPictures, num_devices: int) -> None:
  """Gives the open fields of a config (unlocked) their values.

  Args:
    config: the whole config.
    pictures: to train on.
    num_devices: that share a batch.
  """
  repeats = DataSettings.from_config(config).augmentations_per_image
  num_train, small = pictures.count, (pictures.side or math.inf) <= _SMALL_SIDE
  scale = next(scale for scale in SCALES if num_train < scale.below)
  course = FINE_TUNING if config.model.pretrained else FROM_SCRATCH
  if config.model.variant is None:
    network = _for_small_pictures(pictures.side) if small else scale.network
    config.model.variant, config.model.spec = 'custom', dict(network)
    # What is chosen here is for one machine: the time grows with the root of the pictures' number.
    course = course._replace(
      epochs=course.epochs * min(1.0, math.sqrt(_FEWER_EPOCHS_FROM / num_train))
    )
  _fill(config, 'data.crop', 'shift' if small else 'random')
  if small:  # else `data.fill_in` decides, by the size in tests
    _fill(config, 'data.eval_mode', 'resize')
  shared = num_devices * math.lcm(config.accumulation_steps, repeats)
  _fill(config, 'global_batch_size', math.ceil(scale.batch / shared) * shared)
  least = course.least_updates * config.global_batch_size / (num_train * repeats)
  _fill(config, 'num_epochs', max(course.epochs, least))
  _fill(config, 'optimizer.learning_rate', course.rate * math.sqrt(64 / scale.batch))
  _fill(config, 'optimizer.warmup_epochs', course.warmup_share * config.num_epochs)
  steps = config.num_epochs * num_train * repeats / config.global_batch_size
  _fill(config, 'log_every_steps', min(max(int(steps / _POINTS), 1), _MOST_STEPS_A_POINT))
  _fill(config, 'evaluate_every_epochs', config.num_epochs / _EVALUATIONS)


def warn_of_few_updates(
  config: ConfigDict, settings: DataSettings, num_train: int, total_steps: int
) -> None:
  """Says before a run that it is too short to learn, and what to do about it."""
  if total_steps >= FEWEST_UPDATES:
    return
  batch, repeats = config.global_batch_size, settings.augmentations_per_image
  epochs = math.ceil(FEWEST_UPDATES * batch / (num_train * repeats))
  logging.warning(
    '%s',
    f'{total_steps} updates are few to learn from: {config.num_epochs:g} epochs of '
    f'{num_train:,} pictures{each_in_batch(repeats)} in batches of {batch}. '
    f'Train for {epochs} epochs or more (--config.num_epochs={epochs}), or take a smaller '
    '--config.global_batch_size.',
  )


def each_in_batch(repeats: int) -> str:
  """What follows the number of pictures in a message, if a batch has each of them repeatedly."""
  return f', each {repeats} times,' if repeats > 1 else ''


def _get(config: ConfigDict, field: str) -> Any:
  for name in field.split('.'):
    config = config[name]
  return config


def _fill(config: ConfigDict, field: str, value: Any) -> None:
  section, _, name = field.rpartition('.')
  place = config[section] if section else config
  if place[name] is None:
    place[name] = value
