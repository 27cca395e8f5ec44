"""Private training from scratch: DP-SGD, with a budget (epsilon, delta) that the run states.

nfnets train --config=private --config.private.epsilon=4
nfnets train --config=private --config.data.source=folder --config.data.dir=DIR
nfnets train --config=private:cifar10 --config.data.dir=DIR
nfnets train --config=private:imagenet --config.data.dir=DIR

Needs the extra `private`. Without an argument it is a small NFNet for the built-in digits, or for a
folder of small pictures. The other two are settings of De et al. (arXiv 2204.13650):

| argument | epsilon, delta | batch | updates | learning rate | noise | views | EMA | network |
|---|---|---|---|---|---|---|---|---|
| `imagenet` | 8, 8e-7 | 16,384 | 71,589 | 4.0 | 2.5 | 4 | .99999 | NF-ResNet-50 |
| `cifar10` | 1, 1e-5 | 4,096 | 875 | 2.0 | 10.0 | 16 | .999 | WRN-16-4 |

Skip gains start at 1 here: at 0 a branch has no gradient at first, and noise all the same.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(recipe: str = ''):
  """Returns a private recipe.

  Args:
    recipe: 'cifar10' or 'imagenet' for published settings; '' for small pictures.

  Raises:
    ValueError: it is none of these.
  """
  recipes = {'': _small, 'cifar10': _cifar10, 'imagenet': _imagenet}
  if recipe not in recipes:
    raise ValueError(f'private takes no argument, :cifar10 or :imagenet, got :{recipe}')
  config = base.get_config()
  base.train_privately(config, epsilon=1.0 if recipe == 'cifar10' else 8.0)
  recipes[recipe](config)
  return config


def _small(config: ConfigDict) -> None:
  """Pictures of a few pixels: 87 % of the digits at (8, 1e-4), in a minute on two cores."""
  config.num_epochs = 40.0
  config.global_batch_size = 512
  config.ema_decay = 0.95
  config.log_every_steps = 25
  config.evaluate_every_epochs = 10.0
  config.checkpoint_every_steps = 50

  config.model.skip_gain_init = 1.0
  config.model.variant = 'custom'
  config.model.spec = dict(
    width=(32,),
    depth=(1,),
    stride=(2,),
    group_width=8,
    stem=((3, 2, 16),),
    head_multiple=1.0,
    train_size=16,
    test_size=16,
  )
  config.optimizer.learning_rate = 1.0

  config.data.source = 'digits'
  config.data.crop = 'shift'
  config.data.flip = False
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 120


def _cifar10(config: ConfigDict) -> None:
  """The published setting for (1, 1e-5)."""
  config.num_epochs = 875 * 4096 / 50_000
  config.global_batch_size = 4096
  config.ema_decay = 0.999
  config.log_every_steps = 10
  config.evaluate_every_epochs = 5.0
  config.checkpoint_every_steps = 100
  config.private.delta = 1e-5
  config.private.noise_multiplier = 10.0
  config.private.augmentation_multiplicity = 16

  config.model.variant = 'WRN-16-4'
  config.optimizer.learning_rate = 2.0 * 256 / 4096

  config.data.name = 'cifar10'
  config.data.crop = 'shift'
  config.data.shift_fraction = 0.125  # 4 of 32 pixels
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 1000


def _imagenet(config: ConfigDict) -> None:
  """The published setting for (8, 8e-7): 32.4 % without other data."""
  config.num_epochs = 71_589 * 16_384 / 1_281_167
  config.global_batch_size = 16_384
  config.ema_decay = 0.99999
  config.evaluate_every_epochs = 20.0
  config.checkpoint_every_steps = 500
  config.private.delta = 8e-7
  config.private.noise_multiplier = 2.5
  config.private.augmentation_multiplicity = 4

  config.model.skip_gain_init = 1.0
  config.model.variant = 'NF-ResNet-50'
  config.optimizer.learning_rate = 4.0 * 256 / 16_384

  config.data.name = 'imagenet2012'
  config.data.test_split = 'validation'
  config.data.image_size = 224
  config.data.eval_image_size = 224
  config.data.eval_batch_size = 1024
  config.data.num_examples = 1_281_167  # for synthetic images
  config.data.num_workers = 8
