"""A folder of sounds: DIR/train/<class>/*.wav and DIR/test/<class>/*.flac, or DIR/<class>/*.wav.

nfnets train --config=audio_folder --config.data.dir=DIR --workdir=runs/sounds
nfnets train --config=audio_folder:slow --config.data.dir=DIR --workdir=runs/slow

Trains a small slow-fast network on excerpts of a second, or with :slow its slow trunk alone, in
minutes on two CPU cores for a thousand short sounds. With a GPU and many hours of sound, take the
published network and its excerpts: --config.model.variant=SlowFast-NFNet-F0
--config.data.clip_seconds=4 --config.data.mel_bands=128.

docs/audio.md has a set to try this on, and its results.
"""

from configs import base

_SLOW = {
  'in_channels': 1,
  'width': (32, 64, 96, 96),
  'depth': (1, 1, 2, 1),
  'stride': (1, (1, 2), (1, 2), (1, 2)),
  'group_width': 16,
  'kernel': (1, 1, (3, 1), (3, 1)),
  'second_kernel': ((1, 3), (1, 3), (1, 3), (1, 3)),
  'stem': (((1, 3), 2, 8), ((3, 3), 2, 16)),
  'train_size': (100, 64),
  'test_size': (100, 64),
}
_FAST = {
  'width': (8, 16, 24, 24),
  'group_width': 4,
  'kernel': ((3, 1), (3, 1), (3, 1), (3, 1)),
  'second_kernel': ((1, 3), (1, 3), (1, 3), (1, 3)),
  'stem': (((3, 3), 2, 2), ((3, 3), 2, 4)),
  'lateral_width': (8, 16, 32, 48),
}


def get_config(network: str = ''):
  """Returns a recipe for a few hundred to a few ten thousand short sounds.

  Args:
    network: 'slow' for the slow trunk alone; '' for a slow-fast network.

  Raises:
    ValueError: it is neither.
  """
  if network not in ('', 'slow'):
    raise ValueError(f'audio_folder takes no argument or :slow, got :{network}')
  config = base.get_config()
  base.leave_open(
    config,
    'num_epochs',
    'global_batch_size',
    'log_every_steps',
    'evaluate_every_epochs',
    'optimizer.learning_rate',
    'optimizer.warmup_epochs',
  )
  config.ema_decay = 0.999
  config.checkpoint_every_steps = 200

  config.model.variant = 'custom'
  config.model.spec = dict(_SLOW)
  if network == '':
    config.model.spec = {**_SLOW, 'family': 'slow_fast_nf_net', 'fast': dict(_FAST)}
  config.model.stochdepth_rate = 0.1

  config.data.source = 'audio_folder'
  config.data.mixing = 'mixup'
  config.data.mix_pairing = 'within_batch'
  config.data.time_masks = 1
  config.data.mel_masks = 1
  config.data.max_corrupt_fraction = 0.02
  return config
