"""Small pictures like CIFAR's, at 32 pixels: a TFDS data set, a folder, or the built-in digits.

nfnets train --config=small_images --config.data.name=cifar10
nfnets train --config=small_images:cpu --config.data.name=cifar10
nfnets train --config=small_images --config.data.source=folder --config.data.dir=DIR

CIFAR-10 wants a GPU: it is 17 hours on two CPU cores (59 pictures a second). With :cpu, a smaller
network for a third of the epochs, it is about half an hour there; the digits come to 98.6%.

The published stem halves a picture twice, which is too coarse for 32 pixels; this one keeps the
resolution until the second stage. Clipping follows the batch size: 0.16 for this recipe's 64.

Best top-1 and the peak learning rate that gives it, by batch size, for 8 epochs of a five-block
network on the digits (python scripts/agc_stability.py, one seed; docs/figures/agc_stability.md):

| batch | clipping | with clipping | without |
|---|---|---|---|
| 32 | 0.16 | 98.6% at 0.2 | 98.3% at 0.1 |
| 128 | 0.08 | 95.6% at 0.2 | 78.3% at 0.1 |
| 256 | 0.04 | 91.7% at 0.4 | 56.1% at 0.1 |
"""

from configs import base


def get_config(machine: str = ''):
  """Returns a small NFNet and a recipe for small batches.

  Args:
    machine: 'cpu' for a network and a length that two cores can carry; '' for a GPU.

  Raises:
    ValueError: it is neither.
  """
  if machine not in ('', 'cpu'):
    raise ValueError(f'small_images takes no argument or :cpu, got :{machine}')
  config = base.get_config()
  base.leave_open(
    config,
    'num_epochs',
    'global_batch_size',
    'log_every_steps',
    'evaluate_every_epochs',
    'optimizer.learning_rate',
  )
  config.ema_decay = 0.999
  config.checkpoint_every_steps = 1000

  config.model.variant = 'custom'
  config.model.spec = {
    'width': (64, 128, 256, 256),
    'depth': (1, 2, 3, 1),
    'stride': (1, 2, 2, 1),
    'group_width': 16,
    'stem': ((3, 1, 32),),
    'train_size': 32,
    'test_size': 32,
  }
  if machine == 'cpu':
    config.num_epochs = 20.0
    config.model.spec = {
      'width': (32, 64, 128),
      'depth': (1, 2, 1),
      'stride': (1, 2, 2),
      'group_width': 16,
      'stem': ((3, 2, 16),),
      'train_size': 32,
      'test_size': 32,
    }
  config.model.stochdepth_rate = 0.1

  config.optimizer.warmup_epochs = 3.0
  config.optimizer.weight_decay = 5e-5

  config.data.name = 'cifar10'
  config.data.crop = 'shift'  # by at most a tenth of the side; ImageNet's crops are too coarse
  config.data.flip = True  # not for digits or letters
  config.data.eval_mode = 'resize'
  config.data.max_corrupt_fraction = 0.02
  return config
