"""`ModelSpec`: everything that tells one normalizer-free network from another, as plain data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from nfnets import activations

StemConv = tuple[int, int, int]  # kernel size, stride, output channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
  """A normalizer-free network. Tuples have one entry per stage; a number stands for all stages."""

  # The body.
  width: tuple[int, ...]  # output channels of each stage
  depth: tuple[int, ...]  # blocks of each stage
  stride: tuple[int, ...] = (1, 2, 2, 2)  # of the first block of each stage
  expansion: tuple[float, ...] = (0.5,)  # bottleneck width over the block's output width
  group_width: tuple[int, ...] = (128,)  # channels of one group of the 3x3 convolutions
  two_convs: bool = True  # a second 3x3 convolution in each block
  se_ratio: float = 0.5  # hidden width over input width of squeeze-excite; 0: none
  alpha: float = 0.2  # scale of the residual branch
  activation: str = 'gelu'
  # The ends.
  stem: tuple[StemConv, ...] = ()  # empty: NFNet's four convolutions, ending in width[0] // 2
  head_multiple: float = 2.0  # channels of the final 1x1 convolution over width[-1]
  head_channels: int | None = None  # the same as a number; wins over head_multiple
  # What the published recipe uses with it.
  drop_rate: float = 0.0  # dropout before the classifier
  stochdepth_rate: float = 0.1  # stochastic depth rate that the last block approaches
  train_size: int = 224  # side of the training images, pixels
  test_size: int = 224  # side of the evaluation images, pixels
  augment_magnitude: float = 0.0  # of RandAugment

  def __post_init__(self):
    """Normalises per-stage fields to tuples and checks that a network can be built."""
    num_stages = len(self.width)
    for field in ('width', 'depth', 'stride', 'expansion', 'group_width'):
      value = getattr(self, field)
      value = tuple(value) if isinstance(value, list | tuple) else (value,)
      value = value * num_stages if len(value) == 1 else value
      if len(value) != num_stages:
        raise ValueError(
          f'ModelSpec.{field} has {len(value)} entries for {num_stages} stages: give one number '
          'or one per stage.'
        )
      if any(v <= 0 for v in value):
        raise ValueError(f'ModelSpec.{field} must be positive, got {value}.')
      object.__setattr__(self, field, value)
    stem = self.stem or tuple((3, s, c) for s, c in zip((2, 1, 1), (16, 32, 64), strict=True)) + (
      (3, 2, self.width[0] // 2),
    )
    object.__setattr__(self, 'stem', tuple(tuple(conv) for conv in stem))
    activations.get(self.activation)
    for stage, group_width in enumerate(self.group_width):
      if self.bottleneck_width(stage) < group_width:
        raise ValueError(
          f'Stage {stage} is {self.width[stage]} wide, so its bottleneck of '
          f'{self.width[stage] * self.expansion[stage]:g} channels is smaller than one group of '
          f'{group_width}: make the stage wider or group_width smaller.'
        )
    for field, low, high in (
      ('drop_rate', 0, 1),
      ('stochdepth_rate', 0, 1),
      ('se_ratio', 0, math.inf),
      ('alpha', 0, math.inf),
    ):
      if not low <= getattr(self, field) < high:
        raise ValueError(
          f'ModelSpec.{field} must be in [{low}, {high}), got {getattr(self, field)}.'
        )

  def bottleneck_width(self, stage: int) -> int:
    """Channels inside a block of `stage`: rounded down to whole groups."""
    group_width = self.group_width[stage]
    return int(self.width[stage] * self.expansion[stage]) // group_width * group_width

  @property
  def final_channels(self) -> int:
    """Channels of the final convolution, so of the pooled vector."""
    return self.head_channels or int(self.head_multiple * self.width[-1])

  def replace(self, **changes: Any) -> 'ModelSpec':
    """Returns a copy with some fields changed.

    Raises:
      ValueError: there is no such field, or the network cannot be built.
    """
    names = {field.name for field in dataclasses.fields(self)}
    unknown = sorted(set(changes) - names)
    if unknown:
      raise ValueError(f'ModelSpec has no field {unknown[0]!r}: its fields are {sorted(names)}.')
    # A stem that was derived from the width follows it.
    if 'width' in changes and 'stem' not in changes and self.stem[-1][2] == self.width[0] // 2:
      changes['stem'] = ()
    return dataclasses.replace(self, **changes)

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as plain numbers, strings and lists, ready for JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'ModelSpec':
    """Builds a spec from what `to_dict` gave, or from any part of it that has width and depth.

    Raises:
      ValueError: width or depth is missing, there is an unknown field, or no network results.
    """
    names = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(fields) - names)
    if unknown:
      raise ValueError(f'ModelSpec has no field {unknown[0]!r}: its fields are {sorted(names)}.')
    missing = [name for name in ('width', 'depth') if name not in fields]
    if missing:
      raise ValueError(f'A ModelSpec needs {" and ".join(missing)}, one number per stage.')
    return cls(**fields)
