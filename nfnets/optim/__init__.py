"""The optimiser of normalizer-free networks: clipping, parameter groups, recipe and average."""

from nfnets.optim import ema, sam
from nfnets.optim.agc import (
  UnitCounts,
  adaptive_grad_clip,
  chain,
  clipped_share,
  clipping_for_batch,
)
from nfnets.optim.groups import (
  GROUPS,
  UnknownParameterError,
  assign,
  clip_mask,
  decay_mask,
  find_classifier,
  stage_of,
  sum_by_group,
)
from nfnets.optim.layerwise import by_layer, covers, frozen_mask, rate_multipliers
from nfnets.optim.recipes import nfnet_adamw, nfnet_sgd, warmup_cosine
from nfnets.optim.units import per_output, unit_axes

__all__ = [
  'GROUPS',
  'UnitCounts',
  'UnknownParameterError',
  'adaptive_grad_clip',
  'assign',
  'by_layer',
  'chain',
  'clip_mask',
  'clipped_share',
  'clipping_for_batch',
  'covers',
  'decay_mask',
  'ema',
  'find_classifier',
  'frozen_mask',
  'nfnet_adamw',
  'nfnet_sgd',
  'per_output',
  'rate_multipliers',
  'sam',
  'stage_of',
  'sum_by_group',
  'unit_axes',
  'warmup_cosine',
]
