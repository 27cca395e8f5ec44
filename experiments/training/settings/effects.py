"""Fields that only some runs read, and a sentence for those that are given to another run."""

from collections.abc import Collection
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.runtime.errors import ConfigError


class _Effect(NamedTuple):
  """Fields that have an effect only with some values of another one."""

  of: str
  fields: tuple[str, ...]
  values: tuple[Any, ...] = ()
  but: tuple[Any, ...] = ()  # if there are no `values`: those that do not do


_MIXING = ('data.mixing', 'data.mixup_alpha', 'data.mix_pairing')
_MASKS = ('data.time_masks', 'data.time_mask_share', 'data.mel_masks', 'data.mel_mask_share')
_AUGMENTATION_OF_PICTURES = (
  'data.crop',
  'data.crop_area',
  'data.crop_aspect',
  'data.shift_fraction',
  'data.flip',
  'data.decode',
  'data.augment',
  'data.randaugment_layers',
  'data.randaugment_magnitude',
  'data.autoaugment_policy',
  'data.published_quirks',
  'data.order',
)
_AUGMENTATION = (
  'data.augmentations_per_image',
  *_AUGMENTATION_OF_PICTURES,
  *_MIXING,
  *_MASKS,
)
_OF_SOUNDS = ('data.clip_seconds', 'data.mel_bands', *_MASKS)
_OF_PICTURES = (
  *_AUGMENTATION_OF_PICTURES,
  'data.image_size',
  'data.eval_image_size',
  'data.resize',
  'data.eval_mode',
  'data.eval_crop_share',
  'data.mean',
  'data.stddev',
)
_LONG_RUNS = (
  'evaluate_every_epochs',
  'checkpoint_every_steps',
  'keep_checkpoints',
  'optimizer.sam_timing',
  'optimizer.sharded_update',
)

_EFFECTS = (
  _Effect('data.source', ('data.name',), ('tfds',)),
  _Effect('data.source', ('data.dir', 'data.train_split', 'data.test_split'),
          ('folder', 'tfds', 'audio_folder')),
  _Effect('data.source', ('data.held_out_fraction',), ('folder', 'audio_folder')),
  _Effect('data.source', ('data.decode',), ('folder', 'tfds')),
  _Effect('data.source', _OF_SOUNDS, ('audio_folder',)),
  _Effect('data.source', _OF_PICTURES, ('digits', 'folder', 'tfds', 'synthetic')),
  _Effect('data.time_masks', ('data.time_mask_share',), but=(0,)),
  _Effect('data.mel_masks', ('data.mel_mask_share',), but=(0,)),
  _Effect('data.source', ('data.num_examples', 'data.num_classes'), ('synthetic',)),
  _Effect('data.crop', ('data.crop_area', 'data.crop_aspect'), ('random',)),
  _Effect('data.crop', ('data.shift_fraction',), ('shift',)),
  _Effect('data.mixing', ('data.mixup_alpha',), ('mixup', 'mixup_cutmix')),
  _Effect('data.mixing', ('data.mix_pairing',), ('mixup', 'cutmix', 'mixup_cutmix')),
  _Effect('data.augment', ('data.randaugment_layers', 'data.randaugment_magnitude'),
          ('randaugment',)),
  _Effect('data.augment', ('data.autoaugment_policy',), ('autoaugment',)),
  _Effect('data.augment', ('data.published_quirks',), ('randaugment', 'autoaugment')),
  _Effect('data.eval_mode', ('data.eval_crop_share',), ('center', 'squash')),
  _Effect('optimizer.name', ('optimizer.momentum',), ('sgd',)),
  _Effect('optimizer.schedule', ('optimizer.final_learning_rate',), ('cosine',)),
  _Effect('optimizer.name', ('optimizer.adam_b1', 'optimizer.adam_b2'), ('adamw',)),
  _Effect('optimizer.clipping', ('optimizer.clipping_eps',), but=(0,)),
  _Effect('optimizer.sam_rho', ('optimizer.sam_ascent_share', 'optimizer.sam_timing'), but=(0,)),
  _Effect('private.epsilon', (
    'private.delta', 'private.clipping_norm', 'private.noise_multiplier',
    'private.augmentation_multiplicity', 'private.microbatch',
  ), but=(None,)),
  _Effect('model.pretrained', ('finetune.new_head',), but=('',)),
  _Effect('finetune.linear_probe', (
    *_AUGMENTATION, *_LONG_RUNS, 'finetune.frozen', 'finetune.learning_rate_multipliers',
  ), (False,)),
)  # fmt: skip


def require_effect(config: ConfigDict, given: Collection[str]) -> None:
  """Checks that the run reads the fields that its user gave.

  Args:
    config: with the fields as they are given.
    given: paths of the fields that flags of the command line give.

  Raises:
    ConfigError: one has no effect with what another field is; names both.
  """
  for effect in _EFFECTS:
    value = config
    for name in effect.of.split('.'):
      value = value[name]
    if value in effect.values if effect.values else value not in effect.but:
      continue
    for field in sorted(set(effect.fields) & set(given)):
      needed = ' or '.join(f'--config.{effect.of}={one}' for one in effect.values)
      present = f'with --config.{effect.of}={value}'
      if value == '':
        present = f'without --config.{effect.of}'
      raise ConfigError(
        f'--config.{field} has no effect {present}: leave it out, or set '
        f'{needed or f"--config.{effect.of}"}.'
      )
