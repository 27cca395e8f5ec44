"""Fine-tuning on a folder of pictures: DIR/train/<class>/*.jpg, DIR/test/<class>/*.jpg, or similar.

python -m experiments.train --config=configs/finetune.py --config.model.pretrained=F0 \
  --config.data.dir=DIR --workdir=runs/mine

`model.pretrained` is a published name (F0..F6, eca_nfnet_l0, ...) or a file, and determines the
model. To train only the classifier, on features that are computed once, add
--config.finetune.linear_probe=True. To freeze the first layers, add
--config.finetune.frozen="('NFNet/~/stem_conv*', 'NFNet/~/nf_block')".

[NFNet] section 6 fine-tunes after large-scale pre-training: 15,000 steps of 2,048 pictures, peak
learning rate 0.1 after 5,000 steps of warm-up and a cosine; SAM with rho 0.05, weight decay 1e-5,
dropout 0.25, stochastic depth 0.1. This recipe keeps the values that do not depend on the size of
the data set. A folder has thousands of pictures rather than millions, so the length is in epochs,
30, a third of them warm-up as published. The learning rate is the published 0.1 at 2,048: 0.0125
per 256. With fewer than a thousand pictures the run makes at least 200 updates, with smaller
batches at the same rate (`experiments/training/settings/by_size.py`).

configs/finetune.py:imagenet is ImageNet after large-scale pre-training (arXiv 2310.16764): 50
epochs with SAM, 384 px in training and 480 px in the test; F7+ of `configs/pretrain.py` has 90.3 %.
The rest, of which that paper is not known here, is [NFNet] section 6, with its batch of 2,048.
`:imagenetx4` has four augmented draws of each picture, 90.4 % there, in as many updates: so 50 / 4
epochs; whether the paper counts so, this library does not know (--config.num_epochs).
"""

from configs import base


def get_config(setting: str = 'folder'):
  """Returns the recipe for a folder of a few dozen to a few ten thousand pictures, or ImageNet.

  Args:
    setting: 'folder', 'imagenet', or 'imagenetx4' for four augmented draws of each picture.

  Raises:
    ValueError: another one.
  """
  name, draws = base.split_draws(setting)
  if setting != 'folder' and name != 'imagenet':
    raise ValueError(
      f'configs/finetune.py takes :folder, :imagenet or :imagenetx4, got :{setting}.'
    )
  config = base.get_config()
  base.leave_open(
    config,
    'num_epochs',
    'global_batch_size',
    'log_every_steps',
    'evaluate_every_epochs',
    'optimizer.learning_rate',
    'optimizer.warmup_epochs',
    'data.eval_mode',
  )
  config.ema_decay = 0.99
  config.checkpoint_every_steps = 200

  config.model.variant = ''  # from the weights
  config.model.drop_rate = 0.25
  config.model.stochdepth_rate = 0.1

  config.optimizer.weight_decay = 1e-5
  config.optimizer.sam_rho = 0.05
  config.optimizer.sam_ascent_share = 0.2  # 20 to 40% more time per step instead of 100%

  config.data.source = 'folder'
  config.data.crop_area = (0.25, 1.0)
  config.data.max_corrupt_fraction = 0.02
  if name == 'imagenet':
    _imagenet(config)
    base.draw_repeatedly(config, draws)
  return config


def _imagenet(config) -> None:
  """The setting of arXiv 2310.16764, as far as it is known."""
  config.num_epochs = 50.0
  config.evaluate_every_epochs = 1.0
  config.global_batch_size = 2048
  config.optimizer.learning_rate = 0.0125  # 0.1 at a batch of 2,048
  config.compute_dtype = 'bfloat16'
  config.data.source = 'tfds'
  config.data.name = 'imagenet2012'
  config.data.test_split = 'validation'
  config.data.image_size = 384
  config.data.eval_image_size = 480
  config.data.max_corrupt_fraction = 0.001
  config.data.num_workers = 8
