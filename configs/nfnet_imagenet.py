"""The published NFNet recipe on ImageNet ([NFNet], arXiv 2102.06171, section 5 and appendix).

python -m experiments.train --config=configs/nfnet_imagenet.py:F0 --config.data.dir=DIR
Without the data set: --config.data.source=synthetic (random images, to test speed and memory).

The data set is TFDS's `imagenet2012`. Prepare it once from the two official tar files:
./scripts/prepare_imagenet.sh --tars TARS --out DIR
The test set is ILSVRC's validation set. To choose hyperparameters without it:
--config.data.train_split='train[10000:]' --config.data.test_split='train[:10000]'
Hardware of the paper: 32 TPUv3 cores. Published top-1 at the test size: F0 83.6, F1 84.7, F2 85.1,
F3 85.7, F4 85.9, F5 86.0 %.

configs/nfnet_imagenet.py:F5x16 is F5 with SAM and 16 augmented draws of each picture: 86.8 %
(arXiv 2105.13343). The paper gives the network, SAM and the draws; its finding is that several
draws of each picture help at the same number of updates. So this keeps the updates and their
schedule, which are 360 / 16 epochs; how long the paper trained, this library does not know
(--config.num_epochs). SAM has its published radius, and climbs with the whole batch: a fifth of it,
as in [NFNet], would be the draws of two pictures on each of 32 devices.
"""

from configs import base


def get_config(variant: str = 'F0'):
  """Returns the recipe of a variant: `configs/nfnet_imagenet.py:F3`, or `F5x16` for 16 draws.

  Image sizes and dropout follow from `model.variant`, even if a flag changes it.

  Raises:
    ValueError: what follows the x is no number of draws.
  """
  variant, draws = base.split_draws(variant)
  config = base.get_config()
  config.model.variant = variant
  config.data.source = 'tfds'
  config.data.name = 'imagenet2012'
  config.data.train_split = 'train'
  config.data.test_split = 'validation'
  config.data.mixing = 'mixup_cutmix'
  config.data.augment = 'randaugment'  # 4 layers at the variant's magnitude, 5 to 15
  config.data.num_examples = 1_281_167  # per epoch, for synthetic images
  config.data.num_workers = 8
  # The 50,000 pictures take about 230 CPU seconds of all hosts together, and each time the worker
  # processes start anew: on 32 cores of v3, where an epoch takes 52 s, too much for each of them.
  config.evaluate_every_epochs = 5.0
  config.compute_dtype = 'bfloat16'
  if draws > 1:
    config.optimizer.sam_rho = 0.05
    base.draw_repeatedly(config, draws)
  return config
