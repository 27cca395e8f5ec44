"""The optimiser of normalizer-free networks: clipping, parameter groups, recipe and average."""

from nfnets.optim import ema
from nfnets.optim.agc import UnitCounts, adaptive_grad_clip, clipped_share
from nfnets.optim.groups import (
  GROUPS,
  UnknownParameterError,
  assign,
  clip_mask,
  decay_mask,
  sum_by_group,
)
from nfnets.optim.recipes import nfnet_sgd, warmup_cosine

__all__ = [
  'GROUPS',
  'UnitCounts',
  'UnknownParameterError',
  'adaptive_grad_clip',
  'assign',
  'clip_mask',
  'clipped_share',
  'decay_mask',
  'ema',
  'nfnet_sgd',
  'sum_by_group',
  'warmup_cosine',
]
