"""What decides the batches of a run: `config.data` in types, the seed and the size of a batch."""

import dataclasses
import os
import pathlib
from collections.abc import Collection

from absl import logging
from ml_collections import ConfigDict

from experiments.data.batch import NATURAL_LAYOUT, ImageLayout
from experiments.data.ranges import FIELDS
from experiments.runtime import ranges
from experiments.runtime.errors import ConfigError
from nfnets import images, inference, sides
from nfnets.audio import FRAMES_PER_SECOND, SoundPreprocessing
from nfnets.preprocessing import Preprocessing
from nfnets.sides import Sides

_LEAST_SHARE = 0.75  # of the side of a test picture: with less, a crop hides what is to be seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings:
  """The fields of `config.data`, which configs/base.py explains, and two of the config's own."""

  seed: int
  global_batch_size: int

  source: str
  name: str
  dir: str
  train_split: str
  test_split: str
  held_out_fraction: float
  num_examples: int
  num_classes: int

  image_size: int  # pixels
  eval_image_size: int
  clip_seconds: float | None
  mel_bands: int | None
  time_masks: int
  time_mask_share: float
  mel_masks: int
  mel_mask_share: float
  augmentations_per_image: int
  crop: str
  crop_area: tuple[float, float]
  crop_aspect: tuple[float, float]
  shift_fraction: float
  flip: bool
  decode: str
  resize: str
  mixing: str
  mixup_alpha: float
  mix_pairing: str
  augment: str
  randaugment_layers: int
  randaugment_magnitude: float | None
  autoaugment_policy: str
  published_quirks: tuple[str, ...]
  order: tuple[str, ...]
  eval_mode: str
  eval_crop_share: float
  mean: tuple[float, float, float]
  stddev: tuple[float, float, float]

  eval_batch_size: int
  space_to_depth: str
  num_workers: int
  num_threads: int
  max_corrupt_fraction: float

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'DataSettings':
    """Reads `data`, `seed` and `global_batch_size` of a config.

    Raises:
      ConfigError: a field of `data` has a value that no run can use; the sentence says what to do.
    """
    ranges.check(config.data, FIELDS, 'data.')
    fields = config.data.to_dict()
    fields['mean'] = fields['mean'] or images.IMAGENET_MEAN
    fields['stddev'] = fields['stddev'] or images.IMAGENET_STDDEV
    for name in ('crop_area', 'crop_aspect', 'published_quirks', 'order', 'mean', 'stddev'):
      fields[name] = tuple(fields[name])
    return cls(seed=config.seed, global_batch_size=config.global_batch_size, **fields)

  @property
  def title(self) -> str:
    """What the data are called: the folder, the TFDS data set, or a source without either."""
    if self.source in ('folder', 'audio_folder'):
      return pathlib.Path(os.path.abspath(os.path.expanduser(self.dir))).name or self.dir
    return self.name if self.source == 'tfds' else self.source

  @property
  def is_sound(self) -> bool:
    """Whether the examples are sounds and not pictures."""
    return self.source == 'audio_folder'

  @property
  def noun(self) -> str:
    """What messages call an example."""
    return 'sound' if self.is_sound else 'picture'

  @property
  def train_shape(self) -> tuple[int, int, int]:
    """That of a training example."""
    if self.is_sound:
      return self.preprocessing.frames, self.preprocessing.bands, 1
    return self.image_size, self.image_size, 3

  @property
  def eval_shape(self) -> tuple[int, int, int]:
    """That of an example of the test set."""
    return self.train_shape if self.is_sound else (*[self.eval_image_size] * 2, 3)

  @property
  def size_title(self) -> str:
    """How large the examples are."""
    if self.is_sound:
      return str(self.preprocessing)
    return f'{self.image_size} and {self.eval_image_size} px'

  @property
  def preprocessing(self) -> Preprocessing | SoundPreprocessing:
    """How pictures are prepared in tests, or sounds always."""
    if self.is_sound:
      return SoundPreprocessing(
        max(1, round(self.clip_seconds * FRAMES_PER_SECOND)), self.mel_bands
      )
    return Preprocessing(
      self.eval_image_size, self.eval_mode, self.eval_crop_share, self.mean, self.stddev
    )

  def check_repeats(self, process_count: int) -> None:
    """Checks that every picture of a batch can be in it `augmentations_per_image` times.

    Args:
      process_count: processes that share the batch, each of which reads pictures of its own.

    Raises:
      ConfigError: the batch does not divide; the sentence says what does.
    """
    repeats = self.augmentations_per_image
    least = repeats * process_count
    if self.global_batch_size % least:
      each = f' for each of {process_count} processes' if process_count > 1 else ''
      raise ConfigError(
        f'--config.global_batch_size is {self.global_batch_size}, but a batch holds each '
        f'{self.noun} {repeats} times (--config.data.augmentations_per_image): use a multiple of '
        f'{repeats}{each}, such as {-(-self.global_batch_size // least) * least}.'
      )

  @property
  def train_ends_in_bytes(self) -> bool:
    """Whether the pixels of training examples are whole numbers before they are normalised."""
    if self.is_sound:
      return False
    blends = self.mixing in ('mixup', 'mixup_cutmix')
    if self.augment != 'none':  # its operations work on bytes
      return not blends or self.order.index('mix') < self.order.index('augment')
    keeps_pixels = self.source == 'synthetic' and self.crop != 'random'  # of the size asked for
    return not blends and (self.resize == 'opencv' or keeps_pixels)

  def train_layout(self, block: int = 1, dtype: str = 'float32') -> ImageLayout:
    """How training images are handed over: as bytes if they end in bytes, else in `dtype`."""
    if self.train_ends_in_bytes:
      return ImageLayout(block, 'uint8', self.mean, self.stddev)
    return ImageLayout(block, dtype)

  @property
  def test_layout(self) -> ImageLayout:
    """How images of the test set are handed over: as bytes where they are prepared as bytes."""
    if not self.is_sound and self.preprocessing.is_exact:
      return ImageLayout(1, 'uint8', self.mean, self.stddev)
    return NATURAL_LAYOUT


def fill_in(
  config: ConfigDict,
  *,
  train_size: Sides,
  test_size: Sides,
  magnitude: float,
  variant: str,
  num_devices: int,
  channels: int = 3,
) -> None:
  """Fills in the fields of `config.data` (unlocked) that follow from others.

  Args:
    config: the whole config.
    train_size: of the network's images in training, pixels; or (frames, mel bands).
    test_size: the same for tests.
    magnitude: of RandAugment, as published with the network; 0: there is none.
    variant: the network's name, for the message.
    num_devices: that share a batch.
    channels: of the network's images.

  Raises:
    ConfigError: RandAugment is asked for, and nothing says how strong; the network is not for what
      the source has.
  """
  data = config.data
  _check_channels(data.source, channels)
  if data.source == 'audio_folder':
    frames, bands = sides.pair(train_size)
    data.clip_seconds = data.clip_seconds or frames / FRAMES_PER_SECOND
    data.mel_bands = data.mel_bands or bands
  else:
    data.image_size = data.image_size or train_size
    data.eval_image_size = data.eval_image_size or test_size
    if data.eval_mode is None:
      whole_enough = inference.padded_share(data.eval_image_size) >= _LEAST_SHARE
      data.eval_mode = 'crop_resize' if whole_enough else 'resize_crop_0.875'
  # What fits in training, slice by slice, fits here: float32, but nothing is kept for gradients.
  per_device = config.global_batch_size // max(1, config.accumulation_steps * num_devices)
  data.eval_batch_size = data.eval_batch_size or max(1, per_device) * num_devices
  if data.augment == 'randaugment' and data.randaugment_magnitude is None:
    if not magnitude > 0:
      raise ConfigError(
        f'{variant} has no RandAugment magnitude of its own: set '
        '--config.data.randaugment_magnitude (published: 5 to 15), or --config.data.augment=none.'
      )
    data.randaugment_magnitude = float(magnitude)


def warn_of_lost_borders(settings: DataSettings) -> None:
  """Says before a run that tests will see little of each picture, for the margin is 32 pixels."""
  share = inference.padded_share(settings.eval_image_size) if not settings.is_sound else 1.0
  if settings.eval_mode in ('resize_crop_32', 'crop_resize') and share < _LEAST_SHARE:
    logging.warning(
      '%s',
      f'--config.data.eval_mode={settings.eval_mode} cuts a margin off every test picture, and at '
      f'{settings.eval_image_size} pixels the central {share:.0%} of each side are left: '
      '--config.data.eval_mode=resize keeps the whole picture.',
    )


def _check_channels(source: str, channels: int) -> None:
  """Raises ConfigError unless a network of so many channels is for what a source has."""
  if source == 'audio_folder' and channels != 1:
    raise ConfigError(
      f'--config.data.source={source} gives spectrograms of one channel and the network takes '
      f'{channels}: choose --config.model.variant=SlowFast-NFNet-F0, or --config.model.spec with '
      '1 for in_channels.'
    )
  if source != 'audio_folder' and channels != 3:
    raise ConfigError(
      f'--config.data.source={source} gives pictures of three channels and the network takes '
      f'{channels}: choose another --config.model.variant, or for a folder of sounds '
      '--config.data.source=audio_folder.'
    )


# Fields of `config.data` -> what they are called in `Preprocessing`.
_OF_PREPROCESSING = {
  'eval_image_size': 'size',
  'eval_mode': 'mode',
  'eval_crop_share': 'crop_share',
  'mean': 'mean',
  'stddev': 'stddev',
}


def adopt_preprocessing(
  config: ConfigDict, found: Preprocessing | SoundPreprocessing, given: Collection[str] = ()
) -> None:
  """Makes the pictures of tests, or the sounds, those of weights.

  Args:
    config: the whole config, unlocked.
    found: what the weights say.
    given: fields of `config.data` that stay.
  """
  names = _OF_PREPROCESSING
  if isinstance(found, SoundPreprocessing):
    names = {'clip_seconds': 'seconds', 'mel_bands': 'bands'}
  for field, attribute in names.items():
    if field not in given:
      config.data[field] = getattr(found, attribute)


def adopt_normalization(config: ConfigDict, found: Preprocessing | SoundPreprocessing) -> None:
  """Normalises pictures as weights are used to, unless `config` (unlocked) says how."""
  if isinstance(found, SoundPreprocessing):
    return  # the same for all sounds
  for field in ('mean', 'stddev'):
    config.data[field] = config.data[field] or getattr(found, field)
