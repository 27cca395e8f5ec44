"""Private fine-tuning: weights that were trained on public pictures, then DP-SGD on private ones.

nfnets train --config=private_finetune --config.model.pretrained=F0 --config.data.dir=DIR
nfnets train --config=private_finetune:all --config.model.pretrained=F0 --config.data.dir=DIR
nfnets train --config=private_finetune:cifar100 --config.model.pretrained=FILE --config.data.dir=DIR

Needs the extra `private`. Without an argument only a new classifier is trained, on features that
are computed once: it takes minutes, and for a small epsilon it is often the better choice, because
fewer parameters take less noise together. `all` trains all layers. The budget is that of the
private pictures; what the weights were trained on must be public.

`cifar100` is a setting of De et al. (arXiv 2204.13650): WRN-28-10, all layers, epsilon 1 at delta
1e-5, 250 updates of 16,384, learning rate 1.0, noise 21.1, 16 views, EMA 0.9.

They fine-tune an NFNet-F3 that was trained on JFT-4B to 83.8 % on ImageNet at epsilon 0.5, and
86.7 % at 8 (delta 8e-7). Those weights are not published.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(layers: str = ''):
  """Returns a recipe for private fine-tuning.

  Args:
    layers: '' for the classifier alone, 'all', or 'cifar100' for the published setting.

  Raises:
    ValueError: it is none of these.
  """
  if layers not in ('', 'all', 'cifar100'):
    raise ValueError(f'private_finetune takes no argument, :all or :cifar100, got :{layers}')
  config = base.get_config()
  base.train_privately(config, epsilon=1.0)
  config.model.variant = ''  # from the weights
  config.log_every_steps = 25
  config.checkpoint_every_steps = 50
  if layers == 'cifar100':
    _cifar100(config)
    return config
  config.finetune.linear_probe = layers == ''
  config.num_epochs = 40.0
  config.global_batch_size = 512
  config.ema_decay = 0.9
  config.evaluate_every_epochs = 10.0
  config.optimizer.learning_rate = 1.0
  config.data.source = 'folder'
  config.data.crop_area = (0.25, 1.0)
  config.data.eval_mode = 'crop_resize'
  return config


def _cifar100(config: ConfigDict) -> None:
  """The published setting, from weights of ImageNet at 32 pixels."""
  config.num_epochs = 250 * 16_384 / 50_000
  config.global_batch_size = 16_384
  config.ema_decay = 0.9
  config.evaluate_every_epochs = 8.0
  config.private.delta = 1e-5
  config.private.noise_multiplier = 21.1
  config.private.augmentation_multiplicity = 16
  config.optimizer.learning_rate = 1.0 * 256 / 16_384
  config.data.name = 'cifar100'
  config.data.crop = 'shift'
  config.data.shift_fraction = 0.125  # 4 of 32 pixels
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 1000
