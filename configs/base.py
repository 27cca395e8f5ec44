"""Every field of a training run, with what it means. Recipes are short differences from this.

A field that is None is derived when the run starts, after flags have overridden other fields
(`experiments/settings.py` does that), so `--config.model.variant=F3` also changes the image size.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
  """Returns the base configuration: the published NFNet-F0 recipe, with no data source chosen."""
  config = ConfigDict()

  config.seed = 0  # host order and augmentation, initial parameters, dropout: all follow from it
  config.num_epochs = 360.0  # may be fractional
  config.global_batch_size = 4096  # over all devices of all hosts, per optimiser update
  config.accumulation_steps = 1  # gradients are averaged over this many slices of the batch
  config.compute_dtype = 'float32'  # 'float32' or 'bfloat16'; parameters and the loss stay float32
  config.label_smoothing = 0.1  # s in (1 - s) * y + s / K
  config.ema_decay = 0.99999  # reached slowly: min(ema_decay, (1 + step) / (10 + step))

  config.log_every_steps = 50
  config.evaluate_every_epochs = 1.0  # 0 evaluates only at the end
  config.checkpoint_every_steps = 1000
  config.keep_checkpoints = 2

  config.model = ConfigDict()
  config.model.variant = 'F0'  # any name of nfnets.list_models(), or 'custom' with model.spec
  config.model.spec = ConfigDict()  # fields of nfnets.ModelSpec when variant is 'custom'
  config.model.num_classes = config_dict.placeholder(int)  # None: as many as the data set has
  config.model.drop_rate = config_dict.placeholder(float)  # None: the variant's own
  config.model.stochdepth_rate = 0.25
  config.model.activation = config_dict.placeholder(str)  # None: the variant's own

  config.optimizer = ConfigDict()
  config.optimizer.learning_rate = 0.1  # per 256 images of the global batch
  config.optimizer.warmup_epochs = 5.0
  config.optimizer.final_learning_rate = 0.0  # not scaled by the batch
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 2e-5
  config.optimizer.clipping = 0.01  # of adaptive gradient clipping; 0 switches it off
  config.optimizer.clipping_eps = 1e-3

  config.data = ConfigDict()
  config.data.source = 'tfds'  # 'digits' (embedded), 'folder', 'tfds', 'synthetic' (random images)
  config.data.name = ''  # the TFDS name when source is 'tfds', e.g. 'imagenet2012'
  config.data.dir = ''  # the folder of images, or TFDS's data directory
  config.data.train_split = 'train'  # a TFDS split expression, or the sub-folder's name
  config.data.test_split = 'test'
  config.data.held_out_fraction = 0.2  # 'folder' without a test sub-folder: share kept for the test
  config.data.num_examples = 0  # 'synthetic': training images an epoch; the test has a tenth
  config.data.num_classes = 1000  # 'synthetic': number of classes
  config.data.image_size = config_dict.placeholder(int)  # None: the variant's training size
  config.data.eval_image_size = config_dict.placeholder(int)  # None: the variant's test size
  config.data.crop = 'random'  # 'random' (area, aspect), 'shift' (of the whole picture) or 'none'
  config.data.crop_area = (0.08, 1.0)  # share of the picture's area
  config.data.crop_aspect = (0.75, 4 / 3)  # width / height
  config.data.shift_fraction = 0.1  # crop 'shift': uniform translation, share of the side
  config.data.flip = True  # left-right, with probability 1/2
  config.data.eval_mode = 'resize_crop_32'  # 'crop_resize', 'resize_crop_0.875' or 'resize' (all)
  config.data.eval_batch_size = config_dict.placeholder(int)  # None: global_batch_size
  config.data.num_workers = 0  # processes that prepare batches; 0: threads of this process
  config.data.num_threads = 8  # threads per process that decode and augment
  config.data.max_corrupt_fraction = 0.001  # more unreadable pictures than this end the run
  return config
