"""The networks that the papers on normalizer-free networks use as baselines."""

from nfnets.baselines.common import BaselineSpec, join_state, split_state
from nfnets.baselines.efficientnet import EfficientNet, EfficientNetSpec
from nfnets.baselines.folding import fold
from nfnets.baselines.resnet import ResNet, ResNetSpec
from nfnets.baselines.unnormalized import (
  FixUpResNet,
  FixUpSpec,
  SkipInitResNet,
  SkipInitSpec,
  UnnormalizedSpec,
)
from nfnets.baselines.wide_resnet import WideResNet, WideResNetSpec

__all__ = [
  'BaselineSpec',
  'EfficientNet',
  'EfficientNetSpec',
  'FixUpResNet',
  'FixUpSpec',
  'ResNet',
  'ResNetSpec',
  'SkipInitResNet',
  'SkipInitSpec',
  'UnnormalizedSpec',
  'WideResNet',
  'WideResNetSpec',
  'fold',
  'join_state',
  'split_state',
]
