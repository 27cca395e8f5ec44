"""Private training."""

from configs import digits


def get_config(recipe: str = ''):
  config = digits.get_config()
  config.num_epochs = 40.0
  config.global_batch_size = 256
  config.private.epsilon = 8.0
  config.model.skip_gain_init = 1.0
  config.label_smoothing = 0.0
  config.optimizer.momentum = 0.0
  config.optimizer.schedule = 'constant'
  config.optimizer.warmup_epochs = 0.0
  config.optimizer.weight_decay = 0.0
  config.optimizer.clipping = 0.0
  config.optimizer.learning_rate = 2.0
  config.model.spec = dict(
    width=(32, 64),
    depth=(1, 1),
    stride=(1, 2),
    group_width=8,
    stem=((3, 2, 16),),
    train_size=16,
    test_size=16,
  )
  config.data.eval_batch_size = 360
  return config
