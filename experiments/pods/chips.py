"""What is published about each TPU: memory, clock, peak and links of what JAX calls a device."""

import dataclasses
import math
import re

from experiments.runtime.errors import ConfigError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of TPU.

  Attributes:
    hbm: bytes of memory of a device.
    clock: cycles per second of its core.
    clock_source: where the clock is from.
    peak: multiply-add operations per second in bfloat16, each counted as two, of a device.
    link: bytes per second that a *chip* sends over all its links to other chips.
    devices_per_chip: 2 where JAX shows each core of a chip, 1 where they work as one.
    chips_per_host: of the usual machine.
    dimensions: of its torus.
    smallest: the smallest topology that can be compiled for.
  """

  hbm: int
  clock: float
  clock_source: str
  peak: float
  link: float
  devices_per_chip: int
  chips_per_host: int
  dimensions: int
  smallest: str

  @property
  def usable(self) -> int:
    """Bytes of a device's memory that programs get; what the compiler says on v2 and v3."""
    return self.hbm - _RESERVED


_RESERVED = int(0.52 * GIB)  # "of 7.48G hbm" and "of 15.48G hbm" in the compiler's messages
_TEN_LESSONS = 'Jouppi et al., "Ten Lessons From Three Generations", ISCA 2021, table 1'
_TPU_V4 = 'Jouppi et al., "TPU v4", ISCA 2023 (arXiv 2304.01433), table 4'
_FROM_PEAK = 'derived: peak / (2 * multipliers)'

# Memory, peak and links: cloud.google.com/tpu/docs/system-architecture and the papers above. The
# compiler treats the two cores of a v4 chip, which a real one shows as one device, as two devices
# with half of the memory each. The multipliers of the derived clocks: 4 units of 128 x 128 (v5e),
# 8 of 128 x 128 (v5p); of v6e no clock is published, nor does one follow from its units.
CHIPS = {
  'v2': Chip(8 * GIB, 700e6, _TEN_LESSONS, 22.5e12, 248e9, 2, 4, 2, '2x2'),
  'v3': Chip(16 * GIB, 940e6, _TEN_LESSONS, 61.5e12, 328e9, 2, 4, 2, '2x2'),
  'v4': Chip(16 * GIB, 1050e6, _TPU_V4, 137.5e12, 300e9, 2, 4, 3, '2x2x1'),
  'v5e': Chip(16 * GIB, 1500e6, _FROM_PEAK, 197e12, 200e9, 1, 8, 2, '2x2'),
  'v5p': Chip(95 * GIB, 1750e6, _FROM_PEAK, 459e12, 600e9, 1, 4, 3, '2x2x1'),
  'v6e': Chip(32 * GIB, math.nan, 'not published', 918e12, 448e9, 1, 8, 2, '2x2'),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice of a pod: a kind of chip, and how many of them along each axis of its torus."""

  kind: str
  shape: tuple[int, ...]

  @property
  def name(self) -> str:
    """As it is written: 'v5p:4x4x4'."""
    return f'{self.kind}:{"x".join(map(str, self.shape))}'

  @property
  def chip(self) -> Chip:
    """What is known of its chips."""
    return CHIPS[self.kind]

  @property
  def num_devices(self) -> int:
    """How many devices JAX sees in it."""
    return math.prod(self.shape) * self.chip.devices_per_chip

  @property
  def num_hosts(self) -> int:
    """How many machines feed it."""
    return math.ceil(math.prod(self.shape) / self.chip.chips_per_host)

  @property
  def smallest(self) -> 'Topology':
    """The smallest topology of the same chips."""
    return parse_topology(f'{self.kind}:{self.chip.smallest}')


def parse_topology(name: str) -> Topology:
  """Reads 'v3:4x4' or 'v5p:4x4x4'.

  Raises:
    ConfigError: there is no such chip, or the shape is not one of its torus.
  """
  match = re.fullmatch(r'(v\w+):(\d+(?:x\d+)*)', name)
  if not match or match[1] not in CHIPS:
    raise ConfigError(
      f'the topology {name!r} is unknown: write a chip and its shape, such as v3:4x4 or '
      f'v5p:4x4x4; the chips are {", ".join(CHIPS)}'
    )
  shape = tuple(map(int, match[2].split('x')))
  dimensions = CHIPS[match[1]].dimensions
  if len(shape) != dimensions or not all(shape):
    raise ConfigError(
      f'the topology {name!r} has {len(shape)} sides, but a slice of {match[1]} has {dimensions}, '
      f'such as {match[1]}:{CHIPS[match[1]].smallest}'
    )
  return Topology(match[1], shape)


def all_reduce_seconds(num_bytes: float, topology: Topology) -> float:
  """The least time in which all devices of a topology can sum an array of so many bytes.

  Each chip has to send 2 (n - 1) / n of them over its links; devices of one chip share memory.
  """
  return 2 * gather_seconds(num_bytes, topology)


def gather_seconds(num_bytes: float, topology: Topology) -> float:
  """The least time for half of that: an all-gather of so many bytes, or a reduce-scatter."""
  chips = math.prod(topology.shape)
  return (chips - 1) / chips * num_bytes / topology.chip.link
