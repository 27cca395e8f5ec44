"""How layers are computed: a context chooses, and models need not know.

A training step, a benchmark or a user enters `strategy(...)`; layers call `convolve`, `chain` and
`standardize`, which follow it.
"""

from nfnets.execution.context import Strategy, current, strategy
from nfnets.execution.convolution import convolve
from nfnets.execution.space_to_depth import SpaceToDepth, chain
from nfnets.execution.weight_standardization import standardize

__all__ = [
  'SpaceToDepth',
  'Strategy',
  'chain',
  'convolve',
  'current',
  'standardize',
  'strategy',
]
