"""`ModelSpec`: everything that distinguishes normalizer-free networks, as plain data."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from nfnets import activations, sides
from nfnets.sides import Sides

StemConv = tuple[Sides, Sides, int]  # kernel size, stride, output channels


class Family(NamedTuple):
  """The names that a family's parameter tree is made of, and whether its stem has a fixed width."""

  block: str
  stem_conv: str  # '{}' stands for the convolution's index
  stem_follows_width: bool = False  # when `ModelSpec.replace` changes the width alone


# Module name of the network -> the names inside it. Released weights carry them.
FAMILIES: dict[str, Family] = {
  'NFNet': Family('nf_block', 'stem_conv{}', stem_follows_width=True),
  'NF_ResNet': Family('nf_res_block', 'initial_conv'),
  'NF_RegNet': Family('nf_block', 'initial_conv'),
  'NFNetLight': Family('nf_block', 'stem_conv{}'),
  'slow_fast_nf_net': Family('nf_block', 'stem_conv{}'),
}
SLOW_FAST = 'slow_fast_nf_net'  # the family with two trunks

_WINDOWS = ('stride', 'kernel', 'second_kernel')  # one number per stage, or a pair
_PER_STAGE = ('width', 'depth', 'expansion', 'group_width', *_WINDOWS)
_OF_FAST_TRUNK = ('width', 'stem', 'group_width', 'kernel', 'second_kernel')
_CHOICES = {
  'expansion_of': ('output', 'input'),
  'shortcut': ('average_pool', 'strided_conv'),
  'attention': ('squeeze_excite', 'efficient'),
  'attention_position': ('last', 'before_last_conv'),
  'family': tuple(FAMILIES),
}


def _uniform(values: tuple) -> tuple:
  """One value if all are the same."""
  return values[:1] if len(set(values)) == 1 else values


def round_channels(channels: float, multiple: int, lowest: float = 0.9) -> int:
  """Rounds a width to the nearest multiple, but not below the share `lowest` of it."""
  rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
  return rounded if rounded >= lowest * channels else rounded + multiple


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises ValueError unless the value is one of the choices."""
  if value not in choices:
    raise ValueError(f'{what} must be one of {", ".join(choices)}, got {value!r}.')


def check_fields(cls: type, names: Mapping[str, Any]) -> None:
  """Raises ValueError unless every name is a field of the record."""
  known = {field.name for field in dataclasses.fields(cls)}
  unknown = sorted(set(names) - known)
  if unknown:
    raise ValueError(f'{cls.__name__} has no field {unknown[0]!r}: its fields are {sorted(known)}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conventions:
  """The ways in which implementations of one architecture differ. The defaults are DeepMind's.

  Attributes:
    padding: 'same', or 'symmetric': equal amounts on both sides, as in PyTorch.
    gamma_in_conv: gamma multiplies each convolution's weights, not the activation.
    epsilon: of weight standardisation.
    epsilon_added_to_variance: see `nfnets.execution.standardize`.
    channel_multiple: what derived widths are rounded to; 1: whole numbers, downwards.
    stochdepth_rescale: kept examples are divided by the keep probability.
    stochdepth_reaches_rate: block i of n has rate * i / (n - 1), not rate * i / n.
    folded: plain convolutions that hold all constants, see `nfnets.deploy.fold`.
  """

  padding: str = 'same'
  gamma_in_conv: bool = False
  epsilon: float = 1e-4
  epsilon_added_to_variance: bool = False
  channel_multiple: int = 1
  stochdepth_rescale: bool = False
  stochdepth_reaches_rate: bool = False
  folded: bool = False

  def __post_init__(self):
    """Checks the values."""
    check_choice('Conventions.padding', self.padding, ('same', 'symmetric'))
    if self.epsilon <= 0 or self.channel_multiple < 1:
      raise ValueError(
        'Conventions.epsilon must be positive and channel_multiple at least 1, got '
        f'{self.epsilon} and {self.channel_multiple}.'
      )

  def round_channels(self, channels: float, lowest: float = 0.9) -> int:
    """Rounds a derived width, see `round_channels`; a multiple of 1 rounds downwards."""
    if self.channel_multiple == 1:
      return int(channels)
    return round_channels(channels, self.channel_multiple, lowest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTrunk:
  """The narrow trunk of a slow-fast network, which sees every frame (arXiv 2111.12124).

  Depths, strides and all else are those of the wide trunk, which sees one frame in `frames`, and
  which is given the maps of this one by a lateral convolution before each of its stages.

  Attributes:
    width: as in `ModelSpec`; the same number of stages.
    stem: as in `ModelSpec`.
    group_width: as in `ModelSpec`.
    kernel: as in `ModelSpec`.
    second_kernel: as in `ModelSpec`.
    lateral_width: channels of each stage's lateral convolution.
    lateral_kernel: its size in frames.
    frames: its stride: frames of this trunk for each of the other.
  """

  width: tuple[int, ...]
  stem: tuple[StemConv, ...]
  group_width: tuple[int, ...] | Any = 16
  kernel: tuple[Sides, ...] | Any = 3
  second_kernel: tuple[Sides, ...] | Any = 3
  lateral_width: tuple[int, ...] | Any
  lateral_kernel: int = 7
  frames: int = 4

  def __post_init__(self):
    """Checks what the spec of a trunk does not."""
    for field in ('lateral_kernel', 'frames'):
      value = getattr(self, field)
      if not isinstance(value, int) or value < 1:
        raise ValueError(f'FastTrunk.{field} must be a whole number from 1, got {value!r}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
  """A normalizer-free network. Tuples have one entry per stage; a number stands for all stages.

  A spec alone determines the function and, except for the number of classes, the parameter tree.
  Its defaults are an NFNet's: to build other families, use `replace` on one of their specs.

      small = nfnets.ModelSpec(width=(64, 128), depth=(1, 2), stride=(1, 2), group_width=16)
      wider = small.replace(width=(96, 192))

  Attributes:
    width: output channels of each stage.
    depth: blocks of each stage.
    stride: of the first block of each stage; for one that is not the same along both axes, this
      and the kernels take (height, width).
    expansion: bottleneck width over `expansion_of`.
    expansion_of: the block's 'output' width, or its 'input' width.
    first_expansion: that of the network's first block; None: the same as its stage's.
    group_width: channels of a group of the 3x3 convolutions; 0: no groups.
    kernel: of each stage's first 3x3 convolutions, if it is not 3; odd.
    second_kernel: the same of its second ones.
    two_convs: whether each block has a second 3x3 convolution.
    shortcut: of a transition block, 'average_pool' before its 1x1 convolution, or 'strided_conv':
      in it.
    skip_gain: whether the branch has a learnt scale that starts at `skip_gain_init`; if not, its
      last gains start there.
    skip_gain_init: 0, so that a block begins as the identity; private training starts at 1.
    attention: 'squeeze_excite', or 'efficient': `nfnets.layers.EfficientChannelAttention`.
    attention_position: 'last' in the branch, or 'before_last_conv'.
    se_ratio: hidden width over input width of squeeze-excite; 0: none.
    alpha: scale of the residual branch.
    activation: a name in `nfnets.activations.ACTIVATIONS`.
    in_channels: channels of the images: 3 of pictures, 1 of spectrograms.
    stem: kernel size, stride and output channels of each convolution of the stem; empty: NFNet's
      four, ending in width[0] // 2.
    stem_pool: whether a 3x3/2 max pool follows the stem's convolutions.
    final_conv: whether a 1x1 convolution comes before the last activation and the pooling.
    head_multiple: channels of that convolution over width[-1].
    head_channels: the number of these channels, in place of `head_multiple`; None: not given.
    fast: the second trunk of a slow-fast network, of which the other fields then describe the
      first; None: there is none.
    classifier_std: standard deviation of the classifier's initial weights; 0: zeros.
    family: a key of `FAMILIES`: the class, and the names in the parameter tree.
    conventions: the conventions of an implementation.
    drop_rate: dropout before the classifier. This and the next fields are the published recipe's.
    stochdepth_rate: stochastic depth rate that the last block approaches.
    train_size: side of the training images, pixels; of spectrograms (frames, mel bands).
    test_size: side of the evaluation images, likewise.
    augment_magnitude: magnitude of RandAugment.
  """

  # The body.
  width: tuple[int, ...]
  # Type checkers let a number pass as well, by `Any`.
  depth: tuple[int, ...] | Any
  stride: tuple[Sides, ...] | Any = (1, 2, 2, 2)
  expansion: tuple[float, ...] | Any = (0.5,)
  expansion_of: str = 'output'
  first_expansion: float | None = None
  group_width: tuple[int, ...] | Any = (128,)
  kernel: tuple[Sides, ...] | Any = (3,)
  second_kernel: tuple[Sides, ...] | Any = (3,)
  two_convs: bool = True
  shortcut: str = 'average_pool'
  skip_gain: bool = True
  skip_gain_init: float = 0.0
  attention: str = 'squeeze_excite'
  attention_position: str = 'last'
  se_ratio: float = 0.5
  alpha: float = 0.2
  activation: str = 'gelu'
  # The ends.
  in_channels: int = 3
  stem: tuple[StemConv, ...] = ()
  stem_pool: bool = False
  final_conv: bool = True
  head_multiple: float = 2.0
  head_channels: int | None = None
  fast: FastTrunk | None = None
  classifier_std: float = 0.01
  # Whose network it is.
  family: str = 'NFNet'
  conventions: Conventions = Conventions()
  # What the published recipe uses with it.
  drop_rate: float = 0.0
  stochdepth_rate: float = 0.1
  train_size: Sides = 224
  test_size: Sides = 224
  augment_magnitude: float = 0.0

  def __post_init__(self):
    """Normalises per-stage fields to tuples and checks that a network can be built."""
    for field in _PER_STAGE:
      object.__setattr__(self, field, self._per_stage(field))
    stem = self.stem or default_stem(self.width[0])
    object.__setattr__(self, 'stem', tuple(_stem_conv(*conv) for conv in stem))
    for field in ('train_size', 'test_size'):
      object.__setattr__(self, field, _sides(field, getattr(self, field)))
    for field, choices in _CHOICES.items():
      check_choice(f'ModelSpec.{field}', getattr(self, field), choices)
    if len(self.stem) > 1 and '{}' not in self.names.stem_conv:
      raise ValueError(
        f'The stem of family {self.family!r} is one convolution, got {len(self.stem)}: give one, '
        "or choose family='NFNet' or 'NFNetLight'."
      )
    if self.attention == 'efficient' and self.se_ratio:
      raise ValueError(
        f"se_ratio={self.se_ratio:g} is of squeeze-excite, which attention='efficient' replaces: "
        'set se_ratio=0, or keep squeeze-excite.'
      )
    activations.get(self.activation)
    self._check_channels()
    self._check_bottlenecks()
    for field, low, high in (
      ('drop_rate', 0, 1),
      ('stochdepth_rate', 0, 1),
      ('se_ratio', 0, math.inf),
      ('alpha', 0, math.inf),
      ('skip_gain_init', 0, math.inf),
      ('classifier_std', 0, math.inf),
    ):
      if not low <= getattr(self, field) < high:
        raise ValueError(
          f'ModelSpec.{field} must be in [{low}, {high}), got {getattr(self, field)}.'
        )

  def _per_stage(self, field: str) -> tuple:
    """A field as a tuple with one entry per stage."""
    value = getattr(self, field)
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    value = value * len(self.width) if len(value) == 1 else value
    if len(value) != len(self.width):
      raise ValueError(
        f'ModelSpec.{field} has {len(value)} entries for {len(self.width)} stages: give one number '
        'or one per stage.'
      )
    if field in _WINDOWS:
      value = tuple(_sides(field, v) for v in value)
    lengths = [v for entry in value for v in (entry if isinstance(entry, tuple) else (entry,))]
    if any(v < 0 or (v == 0 and field != 'group_width') for v in lengths):
      raise ValueError(f'ModelSpec.{field} must be positive, got {value}.')
    if 'kernel' in field and not all(v % 2 for v in lengths):
      raise ValueError(f'ModelSpec.{field} must be odd, got {value}.')
    return value

  def _check_channels(self) -> None:
    """The channels of the images, and the second trunk."""
    if not isinstance(self.in_channels, int) or self.in_channels < 1:
      raise ValueError(
        f'ModelSpec.in_channels must be a whole number from 1, got {self.in_channels!r}.'
      )
    if (self.fast is not None) != (self.family == SLOW_FAST):
      raise ValueError(
        f'family={self.family!r} and fast={"a trunk" if self.fast else None} do not go together: '
        f'networks of two trunks, and only they, are of the family {SLOW_FAST!r}.'
      )
    if self.fast is None:
      return
    lateral = self.fast.lateral_width
    lateral = tuple(lateral) if isinstance(lateral, list | tuple) else (lateral,)
    lateral = lateral * len(self.width) if len(lateral) == 1 else lateral
    if len(lateral) != len(self.width) or min(lateral) < 1:
      raise ValueError(
        f'FastTrunk.lateral_width must have a number from 1 for each of the {len(self.width)} '
        f'stages, or one for all, got {self.fast.lateral_width}.'
      )
    trunk = self.fast_trunk  # raises what is wrong with it
    same = {field: getattr(trunk, field) for field in _OF_FAST_TRUNK}
    fast = dataclasses.replace(self.fast, lateral_width=lateral, **same)
    object.__setattr__(self, 'fast', fast)

  def _check_bottlenecks(self) -> None:
    """Every block must have room for one group."""
    for stage, group_width in enumerate(self.group_width):
      for index in range(min(2, self.depth[stage])):
        if not self.bottleneck_width(stage, index):
          raise ValueError(
            f'Stage {stage} is {self.width[stage]} wide, so a bottleneck (expansion '
            f'{self.expansion[stage]:g}) is smaller than one group of {group_width or 1}: make the '
            'stage wider or group_width smaller.'
          )

  @property
  def names(self) -> Family:
    """The names that the parameter tree is made of, under the module `family`."""
    return FAMILIES[self.family]

  def bottleneck_width(self, stage: int, index: int = 0) -> int:
    """Channels inside block `index` of `stage`: rounded down to whole groups."""
    channels = self.width[stage]
    if self.expansion_of == 'input' and index == 0:
      channels = self.stage_input(stage)
    expansion = self.expansion[stage]
    if stage == index == 0 and self.first_expansion is not None:
      expansion = self.first_expansion
    bottleneck = self.conventions.round_channels(channels * expansion)
    group_width = self.group_width[stage] or 1
    return bottleneck // group_width * group_width

  def stage_input(self, stage: int) -> int:
    """Channels of the map that a stage begins with, those of a lateral convolution included."""
    channels = self.width[stage - 1] if stage else self.stem[-1][2]
    return channels + self.lateral_width(stage)

  def lateral_width(self, stage: int) -> int:
    """Channels that a second trunk adds before a stage; 0: there is none."""
    return self.fast.lateral_width[stage] if self.fast else 0

  @property
  def fast_trunk(self) -> 'ModelSpec':
    """The second trunk of a slow-fast network, as a network of its own."""
    own = {field: getattr(self.fast, field) for field in _OF_FAST_TRUNK}
    own['width'] = tuple(own['width'])
    return dataclasses.replace(self, family='NFNet', fast=None, **own)

  def attention_hidden(self, channels: int) -> int:
    """Hidden width of a squeeze-excite on `channels` channels."""
    return max(1, self.conventions.round_channels(channels * self.se_ratio, lowest=0))

  @property
  def final_channels(self) -> int:
    """Channels of the pooled vector, of a slow-fast network of the first trunk's."""
    if not self.final_conv:
      return self.width[-1]
    return self.head_channels or int(self.head_multiple * self.width[-1])

  def replace(self, **changes: Any) -> 'ModelSpec':
    """Returns a copy with some fields changed; a value equal in all stages fits any number of them.

    Raises:
      ValueError: there is no such field, or the network cannot be built.
    """
    check_fields(type(self), changes)
    for field in set(_PER_STAGE) - {'width'}:  # the width says how many stages there are
      changes.setdefault(field, _uniform(getattr(self, field)))
    # A stem that was derived from the width follows it.
    if 'width' in changes and 'stem' not in changes and self.names.stem_follows_width:
      changes['stem'] = () if self.stem == default_stem(self.width[0]) else self.stem
    return dataclasses.replace(self, **changes)

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as plain numbers, strings, lists and dictionaries, ready for JSON."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'ModelSpec':
    """Builds a spec from the result of `to_dict`, or from any part of it with width and depth.

    Raises:
      ValueError: width or depth is missing, there is an unknown field, or no network results.
    """
    check_fields(cls, fields)
    missing = [name for name in ('width', 'depth') if name not in fields]
    if missing:
      raise ValueError(f'A ModelSpec needs {" and ".join(missing)}, one number per stage.')
    fields = dict(fields)
    conventions = fields.get('conventions')
    if isinstance(conventions, Mapping):
      check_fields(Conventions, conventions)
      fields['conventions'] = Conventions(**conventions)
    if isinstance(fields.get('fast'), Mapping):
      check_fields(FastTrunk, fields['fast'])
      fields['fast'] = FastTrunk(**fields['fast'])
    return cls(**fields)


def _sides(field: str, value: Any) -> Any:
  """A window or a size in the one way to write it."""
  try:
    return sides.plain(value)
  except ValueError as error:
    raise ValueError(f'ModelSpec.{field}: {error}') from None


def _stem_conv(kernel: Any, stride: Any, channels: int) -> StemConv:
  return _sides('stem', kernel), _sides('stem', stride), channels


def default_stem(width: int) -> tuple[StemConv, ...]:
  """Returns NFNet's stem for a first stage of `width` channels ([NFNet] appendix)."""
  return ((3, 2, 16), (3, 1, 32), (3, 1, 64), (3, 2, width // 2))


def find_variant(
  variant: str | ModelSpec, table: Mapping[str, ModelSpec], family: str
) -> ModelSpec:
  """Returns the spec that a variant's name has in a family's table; a spec is returned as it is.

  Raises:
    ValueError: there is no such variant, or the spec is of another family.
  """
  if not isinstance(variant, ModelSpec):
    if variant not in table:
      raise ValueError(f'Unknown {family} variant {variant!r}: choose one of {", ".join(table)}.')
    return table[variant]
  if variant.family != family:
    raise ValueError(
      f'This spec has family={variant.family!r} and the class builds {family!r}: use '
      f'nfnets.create_model(spec), or start from one of its own: {", ".join(list(table)[:3])}.'
    )
  return variant


def given(**fields: Any) -> dict[str, Any]:
  """Returns the fields that are not None."""
  return {field: value for field, value in fields.items() if value is not None}
