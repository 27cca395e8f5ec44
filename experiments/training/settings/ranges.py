"""What the fields of a config may be, each by itself; what several must agree in is in `fields`."""

from experiments.data.ranges import FIELDS as DATA_FIELDS
from experiments.runtime.ranges import (
  Choice,
  Named,
  Number,
  OrNone,
  Row,
  Several,
  Switch,
  Text,
)
from experiments.training import nonfinite, privacy_budget, update_sharding
from nfnets import activations
from nfnets.execution.context import MINIMAL_FILTERING, SPACE_TO_DEPTH

_STEPS = Number(1, 2**31 - 1, whole=True)  # the counter of the updates is an int32
_BATCH = Number(1, 2**20, whole=True)
_DECAY = Number(0, 1, below=True)

# In the order of configs/base.py.
FIELDS: dict[str, Row] = {
  'seed': Number(0, 2**32 - 1, whole=True),  # Grain's are 32 bits
  'num_epochs': OrNone(Number(0, 1_000_000, above=True)),
  'global_batch_size': OrNone(_BATCH),
  'accumulation_steps': _BATCH,
  'compute_dtype': Choice(('float32', 'bfloat16')),
  'label_smoothing': Number(0, 1, below=True),
  'ema_decay': Number(0, 1, note='published: 0.99999'),
  'log_every_steps': OrNone(_STEPS),
  'evaluate_every_epochs': OrNone(Number(0, 1_000_000, note='0: only at the end')),
  'checkpoint_every_steps': _STEPS,
  'keep_checkpoints': Number(1, 1_000_000, whole=True),
  'on_save_failure': Choice(('stop', 'continue')),
  'on_nonfinite': Choice(nonfinite.CHOICES),
  'compilation_cache': Text(),
  'keep_freed_memory': Switch(),
  'profile': Text(),  # `profiling.parse` checks it
  'model.pretrained': Text(),
  'model.variant': OrNone(Text()),  # `fields.model_spec` checks it
  'model.spec': Named(),  # the same
  'model.num_classes': OrNone(Number(1, 1_000_000, whole=True)),
  'model.drop_rate': OrNone(Number(0, 1, below=True)),
  'model.stochdepth_rate': OrNone(Number(0, 1, below=True)),
  'model.activation': OrNone(Choice(tuple(activations.ACTIVATIONS))),
  'model.skip_gain_init': OrNone(Number(0, 1000, note='published: 0, and 1 if private')),
  'model.remat': Several(Number(0, 100, whole=True)),
  'model.stem_space_to_depth': Choice(SPACE_TO_DEPTH),
  'model.minimal_filtering': Choice(MINIMAL_FILTERING),
  'optimizer.name': Choice(('sgd', 'adamw')),
  # Of float32; `on_nonfinite` is for what diverges.
  'optimizer.learning_rate': OrNone(Number(0, 1e38)),
  'optimizer.warmup_epochs': OrNone(Number(0, 1_000_000)),
  'optimizer.schedule': Choice(('cosine', 'constant')),
  'optimizer.final_learning_rate': Number(0, 1000),
  'optimizer.momentum': _DECAY,
  'optimizer.adam_b1': _DECAY,
  'optimizer.adam_b2': _DECAY,
  'optimizer.weight_decay': Number(0, 1),
  'optimizer.clipping': OrNone(Number(0, 1000, note='0: none; published: 0.01')),
  'optimizer.clipping_eps': Number(0, 1000, above=True, note='published: 0.001'),
  'optimizer.sam_rho': Number(0, 100, note='0: no SAM; published: 0.05'),
  'optimizer.sam_ascent_share': Number(0, 1, above=True, note='published: 0.2'),
  'optimizer.sam_timing': Switch(),
  'optimizer.sharded_update': Choice(update_sharding.CHOICES),
  'private.epsilon': OrNone(Number(0, 100, above=True, note='None: not private')),
  'private.delta': OrNone(Number(0, 1, above=True, below=True)),
  'private.clipping_norm': Number(0, 1e6, above=True, note='published: 1'),
  'private.noise_multiplier': OrNone(Number(privacy_budget.LEAST_NOISE, 1e6)),
  'private.augmentation_multiplicity': Number(1, 1024, whole=True, note='published: 4 to 16'),
  'private.microbatch': _BATCH,
  'finetune.new_head': Switch(),
  'finetune.frozen': Several(Text()),
  'finetune.learning_rate_multipliers': Named(Number(0, 1000)),
  'finetune.linear_probe': Switch(),
  **{f'data.{name}': row for name, row in DATA_FIELDS.items()},
}
