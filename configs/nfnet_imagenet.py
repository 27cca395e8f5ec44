"""The published NFNet recipe on ImageNet ([NFNet], arXiv 2102.06171, section 5 and appendix).

python -m experiments.train --config=configs/nfnet_imagenet.py:F0 --config.data.dir=DIR
Without the data set: --config.data.source=synthetic (random images, to test speed and memory).

The data set is TFDS's `imagenet2012`. Prepare it once from the two official tar files:
./scripts/prepare_imagenet.sh --tars TARS --out DIR
The test set is ILSVRC's validation set. To choose hyperparameters without it:
--config.data.train_split='train[10000:]' --config.data.test_split='train[:10000]'
Hardware of the paper: 32 TPUv3 cores. Published top-1 at the test size: F0 83.6, F1 84.7, F2 85.1,
F3 85.7, F4 85.9, F5 86.0 %.
"""

from configs import base


def get_config(variant: str = 'F0'):
  """Returns the recipe of a variant: `configs/nfnet_imagenet.py:F3`.

  Image sizes and dropout follow from `model.variant`, even if a flag changes it.
  """
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
  return config
