"""The rows of a normalizer-free network: widths, strides, and the variance at each block.

The variances follow [NFNet] section 2 (arXiv 2102.06171) and [SigProp] section 3.
"""

import math
from typing import NamedTuple

from nfnets.sides import Sides
from nfnets.spec import ModelSpec


class BlockPlan(NamedTuple):
  """What one block needs to know: a row of the network."""

  stage: int
  in_channels: int
  out_channels: int
  bottleneck: int  # channels between the 1x1 convolutions
  groups: int
  kernel: Sides  # of the first grouped convolution
  second_kernel: Sides
  stride: Sides
  input_std: float  # expected standard deviation of the block's input
  alpha: float
  stochdepth_rate: float

  @property
  def is_transition(self) -> bool:
    """Whether the shortcut needs a convolution."""
    return self.stride != 1 or self.in_channels != self.out_channels

  @property
  def beta(self) -> float:
    """What the block's input is multiplied by."""
    return 1.0 / self.input_std

  @property
  def expected_std(self) -> float:
    """Expected standard deviation of the block's output, at skip_gain 1."""
    return math.sqrt((1.0 if self.is_transition else self.input_std) ** 2 + self.alpha**2)


def plan_blocks(spec: ModelSpec) -> list[BlockPlan]:
  """Returns the rows of the network: widths, strides and the variance at each block.

  A transition block applies its shortcut convolution to the normalised input, so the variance
  starts again at 1 there; it grows by alpha^2 with each block ([NFNet] section 2).
  """
  plans = []
  expected_std = 1.0
  num_blocks = sum(spec.depth)
  ramp = max(1, num_blocks - 1) if spec.conventions.stochdepth_reaches_rate else num_blocks
  for stage, depth in enumerate(spec.depth):
    for index in range(depth):
      bottleneck = spec.bottleneck_width(stage, index)
      group_width = spec.group_width[stage] or bottleneck
      plan = BlockPlan(
        stage=stage,
        in_channels=spec.stage_input(stage) if index == 0 else spec.width[stage],
        out_channels=spec.width[stage],
        bottleneck=bottleneck,
        groups=bottleneck // group_width,
        kernel=spec.kernel[stage],
        second_kernel=spec.second_kernel[stage],
        stride=spec.stride[stage] if index == 0 else 1,
        input_std=expected_std,
        alpha=spec.alpha,
        stochdepth_rate=spec.stochdepth_rate * len(plans) / ramp,
      )
      plans.append(plan)
      expected_std = plan.expected_std
  return plans
