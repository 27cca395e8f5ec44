"""A folder of pictures: DIR/train/<class>/*.jpg and DIR/test/<class>/*.jpg, or DIR/<class>/*.jpg.

./scripts/train.sh --config=configs/image_folder.py --config.data.dir=DIR --workdir=runs/mine

If small files are slow to read, pack them once and train on OUT, with the same result:

python scripts/pack_folder.py DIR OUT

Trains a small network from scratch, on a few hundred to a few ten thousand pictures on one machine,
at 96 pixels; --config.data.image_size and --config.data.eval_image_size change that (64 to 224).
Clipping follows the batch size. With fewer than a few thousand pictures, use configs/finetune.py.
"""

from configs import base


def get_config():
  """Returns a narrow NFNet at 96 pixels and a recipe for small batches."""
  config = base.get_config()
  config.num_epochs = 60.0
  config.global_batch_size = 64
  config.ema_decay = 0.999
  config.log_every_steps = 20
  config.evaluate_every_epochs = 5.0
  config.checkpoint_every_steps = 200

  config.model.variant = 'custom'
  config.model.spec = {
    'width': (64, 128, 256, 256),
    'depth': (1, 2, 3, 2),
    'group_width': 16,
    'drop_rate': 0.2,
    'train_size': 96,
    'test_size': 128,
  }
  config.model.stochdepth_rate = 0.1

  config.optimizer.learning_rate = 0.4

  config.data.source = 'folder'
  config.data.crop_area = (0.25, 1.0)
  config.data.eval_mode = 'crop_resize'
  config.data.max_corrupt_fraction = 0.02
  return config
