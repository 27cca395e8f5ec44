"""Pre-training on a large set of labelled pictures (arXiv 2310.16764, which has JFT-4B).

python -m experiments.train --config=configs/pretrain.py:F7+ --config.data.name=NAME \
  --config.data.dir=DIR --config.num_epochs=8

From the paper: AGC, batch 4,096, a cosine, 0.25 to 8 epochs, 224 px in training and 256 px in the
test for every size. The learning rate is the best of a grid of factors of two; in short runs it is
about 1.6 (0.1 for each 256 pictures) for every size, and it falls slowly with the epochs and the
size: try --config.optimizer.learning_rate=0.05 and 0.025 for large networks and long runs.
F7+ after 8 epochs and fine-tuning (`configs/finetune.py:imagenet`): 90.3 %, in 110,000 TPU-v4 core
hours.

JFT-4B is not public: any data set of TFDS, or a folder, takes its place. What is not named above is
of `configs/base.py`, without mixing and RandAugment; the warm-up is a twelfth of the run.
"""

from configs import base


def get_config(variant: str = 'F3+'):
  """Returns the recipe of a variant, such as `configs/pretrain.py:F7+`, for one epoch."""
  config = base.get_config()
  base.leave_open(config, 'optimizer.warmup_epochs')
  config.model.variant = variant
  config.num_epochs = 1.0
  config.global_batch_size = 4096
  config.optimizer.learning_rate = 0.1
  config.evaluate_every_epochs = 0.05
  config.compute_dtype = 'bfloat16'
  config.data.image_size = 224
  config.data.eval_image_size = 256
  config.data.num_workers = 8
  return config
