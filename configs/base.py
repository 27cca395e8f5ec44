"""Every field of a training run, with what it means. Recipes are short differences from this.

A field that is None is derived when the run starts, after flags have overridden other fields
(`experiments/training/settings.py` does that), so `--config.model.variant=F3` also changes the
image size.
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
  config.on_save_failure = 'stop'  # or 'continue': a full disk does not end the run
  # Or 'skip': leave out steps with a NaN or infinite loss or gradient; 100 in a row end the run.
  config.on_nonfinite = 'stop'

  # Where compiled programs are kept for the next run. '': where JAX_COMPILATION_CACHE_DIR says, or
  # else with this library's downloads, but nowhere in a run of several processes: name a directory
  # that all of them see. 'none': nowhere.
  config.compilation_cache = ''
  # On a CPU under Linux, whether freed memory is kept for the next step instead of given back: a
  # fifth of the time of a step of F0. The process stays as large as it was at its largest.
  config.keep_freed_memory = True
  config.profile = ''  # 'a:b' writes JAX's profile of steps a to b into <workdir>/profile

  config.model = ConfigDict()
  config.model.pretrained = ''  # start from weights: a published name ('F0') or a file
  # Any name of nfnets.list_models(), 'custom' with model.spec, or '' with model.pretrained.
  config.model.variant = 'F0'
  config.model.spec = ConfigDict()  # 'custom': fields of nfnets.ModelSpec, or a baseline's
  config.model.num_classes = config_dict.placeholder(int)  # None: as many as the data set has
  config.model.drop_rate = config_dict.placeholder(float)  # None: the variant's own
  config.model.stochdepth_rate = 0.25
  config.model.activation = config_dict.placeholder(str)  # None: the variant's own
  # Stages, from 0, whose blocks the gradient computes again instead of keeping: less memory, more
  # time, the same values. (0, 1, 2, 3): all of an NFNet.
  config.model.remat = ()
  # Whether the stem's convolutions work on squares of pixels as the channels of one place: 'auto'
  # (on accelerators), 'on' or 'off'.
  config.model.stem_space_to_depth = 'auto'

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'  # with Nesterov momentum, as published; or 'adamw'
  config.optimizer.learning_rate = 0.1  # per 256 images of the global batch
  config.optimizer.warmup_epochs = 5.0
  config.optimizer.final_learning_rate = 0.0  # not scaled by the batch
  config.optimizer.momentum = 0.9  # 'sgd'
  config.optimizer.adam_b1 = 0.9  # 'adamw': decay of the gradients' average
  config.optimizer.adam_b2 = 0.999  # 'adamw': decay of the squared gradients' average
  config.optimizer.weight_decay = 2e-5  # 'adamw' wants more, 1e-2 to 1e-1
  # Of adaptive gradient clipping: 0 switches it off; None follows the batch size, 0.01 from 1024
  # on and up to 0.16 for small ones (nfnets.optim.clipping_for_batch).
  config.optimizer.clipping = config_dict.placeholder(float)
  config.optimizer.clipping_eps = 1e-3
  config.optimizer.sam_rho = 0.0  # of sharpness-aware minimisation; published 0.05, 0: none
  config.optimizer.sam_ascent_share = 1.0  # of each device's batch that SAM climbs with

  config.finetune = ConfigDict()
  config.finetune.new_head = True  # a new classifier, even if the weights' own would fit
  # Parameters that stay as they are: prefixes of <module path>/<name>, whole parts of the path, in
  # which * stands for any letters: ('NFNet/~/stem_conv*', 'NFNet/~/nf_block').
  config.finetune.frozen = ()
  # Prefix -> factor on the learning rate, e.g. {'NFNet/~/nf_block*': 0.1}; of several that fit, the
  # longest one counts.
  config.finetune.learning_rate_multipliers = ConfigDict()
  # Runs the network once over all pictures and trains the classifier alone, on what it pools.
  config.finetune.linear_probe = False

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
  config.data.resize = 'exact'  # bicubic of the training crops; 'opencv': quicker, other pixels
  config.data.mixing = 'none'  # 'mixup', 'cutmix' or 'mixup_cutmix' (half of each batch to each)
  config.data.mixup_alpha = 0.2  # of mixup's ratio, Beta(alpha, alpha)
  config.data.mix_pairing = 'second_image'  # or 'within_batch': its neighbour, half the decoding
  config.data.augment = 'none'  # 'randaugment' or 'autoaugment'
  config.data.randaugment_layers = 4  # operations that every picture goes through
  config.data.randaugment_magnitude = config_dict.placeholder(float)  # None: the variant's own
  config.data.autoaugment_policy = 'v0'  # the released code's, or 'paper'
  # Of the published augmentation (experiments/data/augment/randaugment.py); () corrects them all.
  config.data.published_quirks = ('solarize_wraps', 'contrast_by_area', 'enhance_from_tenth')
  # NFNet's; NF-RegNet's is ('augment', 'normalize', 'mix').
  config.data.order = ('mix', 'augment', 'normalize')
  config.data.eval_mode = 'resize_crop_32'  # 'crop_resize', 'resize_crop_0.875' or 'resize' (all)
  config.data.eval_batch_size = config_dict.placeholder(int)  # None: global_batch_size
  # Whether the host rounds training images to compute_dtype and puts squares of their pixels into
  # channels as the stem does first: 'auto' (for accelerators), 'on' or 'off'. The network sees the
  # same values.
  config.data.space_to_depth = 'auto'
  config.data.num_workers = 0  # processes that prepare batches; 0: threads of this process
  config.data.num_threads = 8  # threads per process that decode and augment
  config.data.max_corrupt_fraction = 0.001  # more unreadable pictures than this end the run
  return config
