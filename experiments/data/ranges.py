"""What the fields of `config.data` may be, each by itself."""

from experiments.data.augment import autoaugment, chain, mixing
from experiments.runtime.ranges import (
  Channels,
  Choice,
  Number,
  OrNone,
  Pair,
  Row,
  Several,
  Switch,
  Text,
)
from nfnets import inference
from nfnets.execution.context import SPACE_TO_DEPTH

_PIXELS = OrNone(Number(1, 8192, whole=True))

# In the order of configs/base.py.
FIELDS: dict[str, Row] = {
  'source': Choice(('digits', 'folder', 'tfds', 'synthetic', 'audio_folder')),
  'name': Text(),
  'dir': Text(),
  'train_split': Text(),
  'test_split': Text(),
  'held_out_fraction': Number(0, 1, above=True, below=True),
  'num_examples': Number(0, 2**31 - 1, whole=True),  # Grain shuffles with 32 bits
  'num_classes': Number(2, 1_000_000, whole=True),
  'image_size': _PIXELS,
  'eval_image_size': _PIXELS,
  'clip_seconds': OrNone(Number(0, 600, above=True)),
  'mel_bands': OrNone(Number(1, 512, whole=True)),
  'time_masks': Number(0, 100, whole=True),
  'time_mask_share': Number(0, 1),
  'mel_masks': Number(0, 100, whole=True),
  'mel_mask_share': Number(0, 1),
  'augmentations_per_image': Number(1, 1024, whole=True, note='published: 4 to 16'),
  'crop': OrNone(Choice(('random', 'shift', 'none'))),
  'crop_area': Pair(Number(0, 1, above=True)),
  'crop_aspect': Pair(Number(0.01, 100)),
  'shift_fraction': Number(0, 1),
  'flip': Switch(),
  'decode': Choice(('full', 'scaled')),
  'resize': Choice(('exact', 'opencv')),
  'mixing': Choice(mixing.RECIPES),
  'mixup_alpha': Number(0, 1000, above=True, note='for no mixup: --config.data.mixing=none'),
  'mix_pairing': Choice(('second_image', 'within_batch')),
  'augment': Choice(chain.POLICIES),
  'randaugment_layers': Number(1, 100, whole=True, note='for none: --config.data.augment=none'),
  'randaugment_magnitude': OrNone(Number(0, 100, note='published: 5 to 15')),
  'autoaugment_policy': Choice(tuple(autoaugment.POLICIES)),
  'published_quirks': Several(Choice(chain.QUIRKS)),
  'order': Choice(chain.ORDERS),
  'eval_mode': OrNone(Choice(inference.EVALUATION_MODES)),
  'eval_crop_share': Number(0, 1, above=True),
  'mean': OrNone(Channels(Number(-1, 2))),
  'stddev': OrNone(Channels(Number(0, 100, above=True))),
  'eval_batch_size': OrNone(Number(1, 2**20, whole=True)),
  'space_to_depth': Choice(SPACE_TO_DEPTH),
  'num_workers': Number(0, 1024, whole=True, note='0: threads of this process'),
  'num_threads': Number(1, 1024, whole=True),
  'max_corrupt_fraction': Number(0, 1),
}
