"""A folder of pictures: DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg, or DIR/<class>/*.jpg.

./scripts/train.sh --config=configs/image_folder.py --config.data.dir=DIR --workdir=runs/mine

If small files are slow to read, pack them once and train on OUT, with the same result:

python scripts/pack_folder.py DIR OUT

Trains a small network from scratch, on one machine. The number of training pictures determines the
fields that this recipe leaves open (`experiments/training/settings/by_size.py` has the table). Set
any of them with a flag: --config.model.variant=F0 for another network, --config.data.image_size for
another training size. Clipping follows the batch size. With fewer than a few thousand pictures,
configs/finetune.py learns more.
"""

from configs import base


def get_config():
  """Returns a recipe for a few dozen to a few ten thousand pictures."""
  config = base.get_config()
  base.leave_open(
    config,
    'num_epochs',
    'global_batch_size',
    'log_every_steps',
    'evaluate_every_epochs',
    'model.variant',
    'optimizer.learning_rate',
    'optimizer.warmup_epochs',
    'data.crop',
    'data.eval_mode',
  )
  config.ema_decay = 0.999
  config.checkpoint_every_steps = 200
  config.model.stochdepth_rate = 0.1

  config.data.source = 'folder'
  config.data.crop_area = (0.25, 1.0)
  config.data.max_corrupt_fraction = 0.02
  return config
