"""A run of seconds: 64 steps of a network with two blocks on the digits."""

from configs import digits


def get_config():
  config = digits.get_config()
  config.num_epochs = 64 * 32 / 1437
  config.global_batch_size = 32
  config.evaluate_every_epochs = 0.0
  config.checkpoint_every_steps = 5
  config.log_every_steps = 4
  config.model.spec = {
    'width': (16, 16),
    'depth': (1, 1),
    'stride': (1, 2),
    'group_width': 8,
    'stem': ((3, 2, 8),),
    'drop_rate': 0.1,
    'train_size': 16,
    'test_size': 16,
  }
  config.model.stochdepth_rate = 0.1
  config.data.eval_batch_size = 180
  config.data.max_corrupt_fraction = 0.5
  return config
