"""What decides the batches of a run: `config.data` in types, the seed and the size of a batch."""

import dataclasses
import os
import pathlib
from collections.abc import Collection

from ml_collections import ConfigDict

from experiments.data.batch import NATURAL_LAYOUT, ImageLayout
from experiments.data.ranges import FIELDS
from experiments.runtime import ranges
from experiments.runtime.errors import ConfigError
from nfnets import images
from nfnets.preprocessing import Preprocessing


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
    if self.source == 'folder':
      return pathlib.Path(os.path.abspath(os.path.expanduser(self.dir))).name or self.dir
    return self.name if self.source == 'tfds' else self.source

  @property
  def preprocessing(self) -> Preprocessing:
    """How pictures are prepared in tests."""
    return Preprocessing(
      self.eval_image_size, self.eval_mode, self.eval_crop_share, self.mean, self.stddev
    )

  @property
  def train_ends_in_bytes(self) -> bool:
    """Whether the pixels of training examples are whole numbers before they are normalised."""
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
    if self.preprocessing.is_exact:
      return ImageLayout(1, 'uint8', self.mean, self.stddev)
    return NATURAL_LAYOUT


def fill_in(
  config: ConfigDict,
  *,
  train_size: int,
  test_size: int,
  magnitude: float,
  variant: str,
  num_devices: int,
) -> None:
  """Fills in the fields of `config.data` (unlocked) that follow from others.

  Args:
    config: the whole config.
    train_size: of the network's images in training, pixels.
    test_size: the same for tests.
    magnitude: of RandAugment, as published with the network; 0: there is none.
    variant: the network's name, for the message.
    num_devices: that share a batch.

  Raises:
    ConfigError: RandAugment is asked for, and nothing says how strong.
  """
  data = config.data
  data.image_size = data.image_size or train_size
  data.eval_image_size = data.eval_image_size or test_size
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


# Fields of `config.data` -> what they are called in `Preprocessing`.
_OF_PREPROCESSING = {
  'eval_image_size': 'size',
  'eval_mode': 'mode',
  'eval_crop_share': 'crop_share',
  'mean': 'mean',
  'stddev': 'stddev',
}


def adopt_preprocessing(
  config: ConfigDict, found: Preprocessing, given: Collection[str] = ()
) -> None:
  """Makes the pictures of tests those of weights.

  Args:
    config: the whole config, unlocked.
    found: what the weights say.
    given: fields of `config.data` that stay.
  """
  for field, attribute in _OF_PREPROCESSING.items():
    if field not in given:
      config.data[field] = getattr(found, attribute)


def adopt_normalization(config: ConfigDict, found: Preprocessing) -> None:
  """Normalises pictures as weights are used to, unless `config` (unlocked) says how."""
  for field in ('mean', 'stddev'):
    config.data[field] = config.data[field] or getattr(found, field)
