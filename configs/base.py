"""Every field of a training run and its meaning. A recipe lists its differences from this file.

A field that is None is derived when the run starts, after flags have overridden other fields
(`experiments/training/settings` does that), so `--config.model.variant=F3` also changes the
image size. 'None: by size' means by the number of training pictures (`by_size.py` there). The
comment on a field gives its range; the run refuses other values at the start. All numbers must be
finite, and 'above' and 'below' exclude the bound itself.
"""

from ml_collections import ConfigDict, config_dict

# Fields that the number of training pictures can decide, and their types.
_BY_SIZE = {
  'num_epochs': float,
  'global_batch_size': int,
  'log_every_steps': int,
  'evaluate_every_epochs': float,
  'model.variant': str,
  'optimizer.learning_rate': float,
  'optimizer.warmup_epochs': float,
  'data.crop': str,
  'data.eval_mode': str,
}


def leave_open(config: ConfigDict, *fields: str) -> None:
  """Leaves fields to the number of training pictures, which a flag may still give a value."""
  for field in fields:
    section, _, name = field.rpartition('.')
    place = config[section] if section else config
    place[name] = config_dict.placeholder(_BY_SIZE[field])


def train_privately(recipe: ConfigDict, epsilon: float) -> None:
  """Gives a recipe what private recipes have in common (arXiv 2204.13650, section 3).

  SGD without momentum at a constant learning rate, no weight decay, no adaptive gradient clipping,
  no mixing of pictures, no label smoothing, dropout or stochastic depth.

  Args:
    recipe: of `get_config`.
    epsilon: within which it trains.
  """
  recipe.private.epsilon = epsilon
  recipe.label_smoothing = 0.0
  recipe.model.drop_rate = 0.0
  recipe.model.stochdepth_rate = 0.0
  recipe.optimizer.momentum = 0.0
  recipe.optimizer.schedule = 'constant'
  recipe.optimizer.warmup_epochs = 0.0
  recipe.optimizer.weight_decay = 0.0
  recipe.optimizer.clipping = 0.0
  recipe.data.mixing = 'none'


def split_draws(text: str) -> tuple[str, int]:
  """Splits the argument of a recipe: 'F5x16' is 'F5' with 16 draws of each picture, 'F5' with one.

  Raises:
    ValueError: what follows the x is no whole number from 1.
  """
  name, separator, draws = text.partition('x')
  if separator and not (draws.isdecimal() and int(draws) >= 1):
    raise ValueError(
      f'the argument :{text} asks for {draws!r} draws of each picture: take a whole number from 1, '
      f'such as :{name}x4, or leave the x out.'
    )
  return name, int(draws or 1)


def draw_repeatedly(recipe: ConfigDict, draws: int) -> None:
  """Draws each picture of a batch repeatedly, in as many updates as the recipe has with one draw.

  That is what arXiv 2105.13343 compares.
  """
  recipe.data.augmentations_per_image = draws
  recipe.num_epochs /= draws
  recipe.evaluate_every_epochs /= draws
  if recipe.optimizer.warmup_epochs is not None:  # else a part of the run
    recipe.optimizer.warmup_epochs /= draws


def get_config() -> ConfigDict:
  """Returns the base configuration: the published NFNet-F0 recipe, with no data source chosen."""
  config = ConfigDict()

  # Determines the order of examples, augmentation, initial parameters, dropout. 0 to 2^32 - 1.
  config.seed = 0
  config.num_epochs = 360.0  # above 0, to 1,000,000; may be fractional; None: by size
  # Over all devices of all hosts, per optimiser update. 1 to 2^20, a multiple of their number;
  # None: by size.
  config.global_batch_size = 4096
  # Gradients are averaged over this many slices of the batch. From 1, a divisor of the number of
  # images per device.
  config.accumulation_steps = 1
  config.compute_dtype = 'float32'  # 'float32' or 'bfloat16'; parameters and the loss stay float32
  config.label_smoothing = 0.1  # s in (1 - s) * y + s / K; 0 to below 1
  # 0 to 1; the decay rises to it: min(ema_decay, (1 + step) / (10 + step)).
  config.ema_decay = 0.99999

  config.log_every_steps = 50  # from 1; None: at least 40 times in a run, and every 50 steps
  # To 1,000,000; 0 evaluates only at the end; None: 20 times in a run.
  config.evaluate_every_epochs = 1.0
  config.checkpoint_every_steps = 1000  # from 1
  config.keep_checkpoints = 2  # the newest ones, 1 to 1,000,000
  config.on_save_failure = 'stop'  # or 'continue': a full disk does not stop the run
  # Or 'skip': skip steps with a NaN or infinite loss or gradient; 100 in a row end the run.
  config.on_nonfinite = 'stop'

  # Where compiled programs are kept for the next run. '': JAX_COMPILATION_CACHE_DIR if it is set,
  # otherwise next to this library's downloads, but nowhere if the run has several processes: name
  # a directory that all of them can see. 'none': nowhere.
  config.compilation_cache = ''
  # On a CPU under Linux, whether freed memory is kept for the next step instead of returned to the
  # system: saves a fifth of the time of an F0 step. The process stays at its peak size.
  config.keep_freed_memory = True
  config.profile = ''  # 'a:b' writes JAX's profile of steps a to b into <workdir>/profile

  config.model = ConfigDict()
  config.model.pretrained = ''  # start from weights: a published name ('F0') or a file
  # Any name of nfnets.list_models(), 'custom' with model.spec, or '' with model.pretrained; None:
  # one of these two, or without either a small NFNet by size. A flag for the variant alone takes
  # the place of the recipe's spec, and one for the spec that of its variant.
  config.model.variant = 'F0'
  config.model.spec = ConfigDict()  # 'custom': fields of nfnets.ModelSpec, or a baseline's
  config.model.num_classes = config_dict.placeholder(int)  # to 1,000,000; None: the data set's
  # 0 to below 1; None: the variant's own.
  config.model.drop_rate = config_dict.placeholder(float)
  config.model.stochdepth_rate = 0.25  # the same
  # A name in nfnets.activations.ACTIVATIONS; None: the variant's own.
  config.model.activation = config_dict.placeholder(str)
  # Where the skip gains start; None: the variant's own, 0. Private training starts at 1.
  config.model.skip_gain_init = config_dict.placeholder(float)
  # Stages, from 0, whose blocks are recomputed for the gradient instead of kept: less memory, more
  # time, the same values. (0, 1, 2, 3): all of an NFNet.
  config.model.remat = ()
  # Whether the stem's convolutions work on squares of pixels, moved into the channels: 'auto' (on
  # TPUs), 'on' or 'off'.
  config.model.stem_space_to_depth = 'auto'
  # Whether a CPU computes gradients of 3x3 weights with fewer products, equal up to rounding:
  # 'auto' (where that is faster), 'on' or 'off'.
  config.model.minimal_filtering = 'auto'

  config.optimizer = ConfigDict()
  config.optimizer.name = 'sgd'  # with Nesterov momentum, as published; or 'adamw'
  # Per 256 images of the global batch; 0 to 1e38; None: by size.
  config.optimizer.learning_rate = 0.1
  # 0 to half the run; more is cut to that, with a warning. None: a twelfth of the run, or a third
  # if it starts from weights.
  config.optimizer.warmup_epochs = 5.0
  config.optimizer.schedule = 'cosine'  # or 'constant', after the warm-up
  # 'cosine'; not scaled by the batch; 0 to the peak
  config.optimizer.final_learning_rate = 0.0
  config.optimizer.momentum = 0.9  # 'sgd'; 0 to below 1
  config.optimizer.adam_b1 = 0.9  # 'adamw': decay of the gradients' average; 0 to below 1
  config.optimizer.adam_b2 = 0.999  # 'adamw': of the squared gradients' average; 0 to below 1
  config.optimizer.weight_decay = 2e-5  # 0 to 1; 'adamw' needs more, 1e-2 to 1e-1
  # Of adaptive gradient clipping: 0 switches it off; None follows the batch size, from 0.01 for
  # 1024 or more up to 0.16 for small batches (nfnets.optim.clipping_for_batch). To 1,000.
  config.optimizer.clipping = config_dict.placeholder(float)
  config.optimizer.clipping_eps = 1e-3  # smallest norm of weights that counts; above 0, to 1,000
  config.optimizer.sam_rho = 0.0  # of sharpness-aware minimisation: published 0.05; 0: off; to 100
  config.optimizer.sam_ascent_share = 1.0  # of each device's batch that SAM climbs with; above 0
  # Whether a run with SAM measures at its start what that adds to a step, which takes a minute.
  config.optimizer.sam_timing = False
  # Whether each device updates its part of the parameters instead of all of them: 'auto' (on
  # accelerators, several of them), 'on' or 'off'. The same values, in less time and memory.
  config.optimizer.sharded_update = 'auto'

  config.private = ConfigDict()
  # Trains privately (DP-SGD) within this epsilon; above 0, to 100. None: not privately.
  config.private.epsilon = config_dict.placeholder(float)
  # Of the same (epsilon, delta); above 0, below 1. None: the greatest power of ten below one over
  # the number of training pictures.
  config.private.delta = config_dict.placeholder(float)
  config.private.clipping_norm = 1.0  # of the gradient of one picture; above 0, to 1e6
  # Standard deviation of the noise in the sum of clipped gradients, in clipping norms, 0.1 to 1e6;
  # the run ends when epsilon is spent. None: the least with which epsilon lasts to its end.
  config.private.noise_multiplier = config_dict.placeholder(float)
  # Augmented views of a picture whose gradients are averaged before clipping, 1 to 1,024.
  config.private.augmentation_multiplicity = 1
  # Pictures whose gradients a device has at once, from 1: memory for so many copies of the
  # parameters.
  config.private.microbatch = 16

  config.finetune = ConfigDict()
  config.finetune.new_head = True  # a new classifier, even if the weights' own would fit
  # Parameters that are not trained: prefixes of <module path>/<name> that end at a whole part of
  # the path; * matches any letters: ('NFNet/~/stem_conv*', 'NFNet/~/nf_block').
  config.finetune.frozen = ()
  # Prefix -> factor on the learning rate, e.g. {'NFNet/~/nf_block*': 0.1}; if several match, the
  # longest one wins. Each 0 to 1,000.
  config.finetune.learning_rate_multipliers = ConfigDict()
  # Runs the network once over all pictures and trains only the classifier, on the pooled features.
  config.finetune.linear_probe = False

  config.data = ConfigDict()
  # 'digits' (built in), 'folder', 'tfds', 'synthetic' (random images), 'audio_folder' (sounds).
  config.data.source = 'tfds'
  config.data.name = ''  # the TFDS name when source is 'tfds', e.g. 'imagenet2012'
  config.data.dir = ''  # the folder of images or sounds, or TFDS's data directory
  config.data.train_split = 'train'  # a TFDS split expression, or the sub-folder's name
  config.data.test_split = 'test'
  # 'folder', 'audio_folder' without a test folder; above 0, below 1
  config.data.held_out_fraction = 0.2
  config.data.num_examples = 0  # 'synthetic': training images, 1 to 2^31 - 1; a tenth to test
  config.data.num_classes = 1000  # 'synthetic': number of classes, 2 to 1,000,000
  # Pixels of a side, 1 to 8,192; None: the variant's training and test size.
  config.data.image_size = config_dict.placeholder(int)
  config.data.eval_image_size = config_dict.placeholder(int)
  # 'audio_folder': length of a random excerpt, above 0, to 600, in hundredths of a second; and mel
  # bands of its spectrogram, 1 to 512. None: those of the variant's training size.
  config.data.clip_seconds = config_dict.placeholder(float)
  config.data.mel_bands = config_dict.placeholder(int)
  # 'audio_folder': SpecAugment's masks along time and frequency, 0 to 100 of each; and the largest
  # share of the excerpt or the bands that one of them hides, 0 to 1.
  config.data.time_masks = 0
  config.data.time_mask_share = 0.1
  config.data.mel_masks = 0
  config.data.mel_mask_share = 0.2
  # Differently augmented draws of each picture in a batch, which is read and decoded once for them:
  # 1 to 1,024, a divisor of each process's part of the batch. An epoch still has every picture
  # once, in as many times more updates.
  config.data.augmentations_per_image = 1
  # 'random' (area, aspect), 'shift' (of the whole picture) or 'none'; None: by size.
  config.data.crop = 'random'
  # (smallest, largest) share of the area; above 0, to 1.
  config.data.crop_area = (0.08, 1.0)
  config.data.crop_aspect = (0.75, 4 / 3)  # (smallest, largest) width / height; 0.01 to 100
  config.data.shift_fraction = 0.1  # crop 'shift': uniform translation, share of the side, 0 to 1
  config.data.flip = True  # left-right, with probability 1/2
  # Of training JPEGs; 'scaled': at 1/2, 1/4 or 1/8 of their size where the crop is still as large
  # as the image: faster for large photos, other pixels.
  config.data.decode = 'full'
  config.data.resize = 'exact'  # bicubic of the training crops; 'opencv': faster, other pixels
  config.data.mixing = 'none'  # 'mixup', 'cutmix' or 'mixup_cutmix' (half of each batch to each)
  config.data.mixup_alpha = 0.2  # of mixup's ratio, Beta(alpha, alpha); above 0, to 1,000
  config.data.mix_pairing = 'second_image'  # or 'within_batch': the next one, half the decoding
  config.data.augment = 'none'  # 'randaugment' or 'autoaugment'
  config.data.randaugment_layers = 4  # operations applied to every picture, 1 to 100
  # 0 to 100, published 5 to 15; None: the variant's own.
  config.data.randaugment_magnitude = config_dict.placeholder(float)
  config.data.autoaugment_policy = 'v0'  # the released code's, or 'paper'
  # In the published augmentation (experiments/data/augment/randaugment.py); () corrects them all.
  config.data.published_quirks = ('solarize_wraps', 'contrast_by_area', 'enhance_from_tenth')
  # NFNet's; NF-RegNet's is ('augment', 'normalize', 'mix').
  config.data.order = ('mix', 'augment', 'normalize')
  # Or 'crop_resize', 'resize_crop_0.875', 'resize' (the whole picture); timm's 'center', 'squash'.
  # None: 'resize' for small pictures, otherwise by the size in tests: 'crop_resize' from 96 pixels
  # on, 'resize_crop_0.875' below.
  config.data.eval_mode = 'resize_crop_32'
  config.data.eval_crop_share = 1.0  # 'center', 'squash': of the resized side; above 0, to 1
  # For red, green and blue, on the scale 0..1, e.g. (0.5, 0.5, 0.5); None: those of the weights in
  # model.pretrained, or ImageNet's.
  config.data.mean = config_dict.placeholder(tuple)
  config.data.stddev = config_dict.placeholder(tuple)
  config.data.eval_batch_size = config_dict.placeholder(int)  # None: that of a training slice
  # Whether the host moves squares of training images' pixels into the channels, as the stem would,
  # and rounds what it does not send as bytes to compute_dtype: 'auto' (for TPUs; for a GPU it only
  # rounds), 'on' or 'off'. The network sees the same values.
  config.data.space_to_depth = 'auto'
  config.data.num_workers = 0  # processes that prepare batches, to 1,024; 0: threads of this one
  config.data.num_threads = 8  # threads per process that decode and augment, 1 to 1,024
  config.data.max_corrupt_fraction = 0.001  # 0 to 1; more unreadable pictures end the run
  return config
