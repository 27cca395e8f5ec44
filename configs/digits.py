"""The default recipe: scikit-learn's 1,797 scanned digits at 32 x 32 pixels.

./scripts/train.sh
"""

from configs import base


def get_config():
  """Returns a small NFNet and a recipe that takes a few minutes on two CPU cores."""
  config = base.get_config()
  config.num_epochs = 30.0
  config.global_batch_size = 64
  config.ema_decay = 0.995
  base.leave_open(config, 'log_every_steps', 'evaluate_every_epochs')
  config.checkpoint_every_steps = 100

  config.model.variant = 'custom'
  config.model.spec = dict(
    width=(32, 64, 96, 96),
    depth=(1, 1, 2, 1),
    group_width=8,
    train_size=32,
    test_size=32,
  )
  config.model.stochdepth_rate = 0.0

  config.optimizer.learning_rate = 0.4
  config.optimizer.warmup_epochs = 3.0
  config.optimizer.clipping = 0.08  # small batches need a larger clip ([NFNet] section 4.1)

  config.data.source = 'digits'
  config.data.crop = 'shift'
  config.data.flip = False
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 120
  return config
