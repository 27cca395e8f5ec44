"""From a step's costs to what a run on a pod needs: memory, time, input; and the cache of costs."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from importlib import metadata

import nfnets
from experiments.pods import program
from experiments.pods.chips import Topology, all_reduce_seconds, gather_seconds
from experiments.pods.costs import Costs
from experiments.runtime import atomic_files
from experiments.runtime.errors import ConfigError
from experiments.training.settings import Run
from nfnets.weights import download

# [NFNet] (arXiv 2102.06171) table 3: milliseconds of a training step on TPUv3, 32 images per core.
PUBLISHED_MS = {
  'F0': 73.3, 'F1': 158.5, 'F2': 295.8, 'F3': 532.2, 'F4': 1033.3, 'F5': 1398.5,
}  # fmt: skip

# What the compiled program follows from, beside the config.
_SOURCES = (  # beside the library
  'experiments/data/batch.py',
  'experiments/pods',
  'experiments/training/gradients.py',
  'experiments/training/settings',
  'experiments/training/step_metrics.py',
  'experiments/training/steps.py',
  'experiments/training/update_sharding.py',
)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Costs of one batch size on one topology, or the memory that they would need.

  Attributes:
    topology: of the run.
    batch: images of each device in an update.
    costs: None where the step does not fit and was not compiled to the end.
    memory: bytes that a device needs.
  """

  topology: Topology
  batch: int
  costs: Costs | None
  memory: int

  @property
  def fits(self) -> bool:
    """Whether a device's memory is enough."""
    return self.costs is not None and self.memory <= self.topology.chip.usable

  @property
  def step_seconds(self) -> float | None:
    """The compiler's estimated cycles by the clock; None without a clock or cycles.

    All-reduces and the launches of operations are not in it.
    """
    clock = self.topology.chip.clock
    if self.costs is None or not self.costs.cycles or clock != clock:
      return None
    return self.costs.cycles / clock

  @property
  def floor_seconds(self) -> float | None:
    """The FLOPs at the chip's published peak: no step can be quicker."""
    return self.costs and self.costs.flops / self.topology.chip.peak

  @property
  def all_reduce_seconds(self) -> float | None:
    """The least time of the all-reduces over the pod's links; some of it can overlap."""
    return self.costs and all_reduce_seconds(self.costs.all_reduce_bytes, self.topology)

  @property
  def reduce_scatter_seconds(self) -> float | None:
    """The same of the reduce-scatters, in which each device gets its share of the sums."""
    return self.costs and gather_seconds(self.costs.reduce_scatter_bytes, self.topology)

  @property
  def all_gather_seconds(self) -> float | None:
    """The same of the all-gathers, in which each device gets the others' shares."""
    return self.costs and gather_seconds(self.costs.all_gather_bytes, self.topology)

  @property
  def global_batch(self) -> int:
    """Images of all devices in an update."""
    return self.batch * self.topology.num_devices

  def images_per_second(self) -> float | None:
    """Of the whole pod, without all-reduces."""
    return self.global_batch / self.step_seconds if self.step_seconds else None

  def hours(self, epochs: float, examples: int) -> float | None:
    """For so many epochs of so many examples, without all-reduces, input and evaluation."""
    rate = self.images_per_second()
    return epochs * examples / rate / 3600 if rate else None

  def host_images_per_second(self) -> float | None:
    """What each machine of the pod has to prepare."""
    rate = self.images_per_second()
    return rate / self.topology.num_hosts if rate else None


def per_device_batch(global_batch: int, topology: Topology) -> int:
  """Returns the share of one device.

  Raises:
    ConfigError: the devices cannot share the batch equally.
  """
  devices = topology.num_devices
  if global_batch % devices or global_batch < devices:
    below = max(global_batch // devices, 1) * devices
    raise ConfigError(
      f'the {devices} devices of {topology.name} cannot share a batch of {global_batch} equally: '
      f'{below} or {below + devices} would do'
    )
  return global_batch // devices


def largest_batch(
  estimate: Callable[[int], Estimate], first: Estimate, *, multiple: int = 8, limit: int = 4096
) -> Estimate | None:
  """Finds the largest batch per device that fits, a multiple of `multiple`, by compiling.

  Memory is nearly linear in the batch, so each guess is where the line through what is known says
  that the memory is full. It ends when the next larger multiple is known not to fit.

  Args:
    estimate: batch per device -> its estimate.
    first: an estimate that is there already.
    multiple: granularity of the search.
    limit: no larger batch is tried.

  Returns:
    The estimate; None if not even the smallest multiple fits.
  """
  known = {first.batch: first}
  full = first.topology.chip.usable
  fitting, failing = 0, limit + multiple
  while True:
    for batch, one in known.items():
      if one.fits:
        fitting = max(fitting, batch // multiple * multiple)
      else:
        failing = min(failing, -(-batch // multiple) * multiple)
    if failing - fitting <= multiple:
      break
    guess = _guess(known, full) // multiple * multiple
    guess = min(max(guess, fitting + multiple), failing - multiple)
    known[guess] = estimate(guess)
  if not fitting:
    return None
  return known.get(fitting) or estimate(fitting)


def _guess(known: dict[int, Estimate], full: int) -> int:
  """Where the line through the two nearest known batches fills the memory."""
  nearest = sorted(known.values(), key=lambda one: abs(one.memory - full))[:2]
  a = nearest[0]
  if len(nearest) == 2 and nearest[1].memory != a.memory:
    b = nearest[1]
    slope = (b.memory - a.memory) / (b.batch - a.batch)
  else:
    fixed = a.costs.argument_bytes if a.costs else 0  # the state, mostly
    slope = max(a.memory - fixed, 1) / a.batch
  return int(a.batch + (full - a.memory) / slope) if slope > 0 else 2 * a.batch


class Planner:
  """Estimates by compiling, each once: costs are kept in the user's cache directory."""

  def __init__(
    self,
    run: Run,
    topology: Topology,
    *,
    say: program.Say = print,
    cache: pathlib.Path | None = None,
    compile_costs: Callable[..., Costs] = program.compile_costs,
  ):
    """Plans a run.

    Args:
      run: read for the backend 'tpu'.
      topology: of the run.
      say: for progress.
      cache: folder of the kept costs; None: `pods`, beside this library's downloads.
      compile_costs: the compiler.
    """
    alone = topology.num_devices == 1
    self.run = dataclasses.replace(run, sharded_update='off') if alone else run
    self.topology = topology
    self.say = say
    self.cache = cache or download.cache_directory() / 'pods'
    self._compile = compile_costs

  @property
  def compiled_for(self) -> Topology:
    """The slice that is compiled for: the smallest, if the program of a device is the same in it.

    It is, but for the all-reduces, unless the devices share out the update.
    """
    return self.topology.smallest if self.run.sharded_update == 'off' else self.topology

  def estimate(self, batch: int) -> Estimate:
    """Returns the estimate for so many images per device."""
    path = self.cache / f'{self._key(batch)}.json'
    if path.exists():
      kept = json.loads(path.read_text())
    else:
      try:
        costs = self._compile(self.run, self.compiled_for, batch, say=self.say)
        kept = {'costs': dataclasses.asdict(costs), 'memory': costs.memory}
      except program.TooLargeError as error:
        kept = {'costs': None, 'memory': error.needed}
      self.cache.mkdir(parents=True, exist_ok=True)
      text = json.dumps(kept, indent=2)
      atomic_files.replace(path, lambda place: place.write_text(text))
    costs = Costs(**kept['costs']) if kept['costs'] else None
    return Estimate(self.topology, batch, costs, kept['memory'])

  def _key(self, batch: int) -> str:
    config = dict(self.run.config)
    shapes = ('image_size', 'clip_seconds', 'mel_bands', 'space_to_depth')
    config['data'] = {field: config['data'][field] for field in shapes}
    for field in ('global_batch_size', 'num_epochs', 'seed'):  # constants of the same program
      config.pop(field)
    parts = {
      'config': config,
      'classes': self.run.num_classes,
      'chip': self.compiled_for.name,
      'batch': batch,
      'versions': {name: _version(name) for name in ('jax', 'jaxlib', 'libtpu')},
      'sources': _sources_hash(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return 'none'


def _sources_hash() -> str:
  """Of every file that the step is made of."""
  library, programs = pathlib.Path(nfnets.__file__).parent, pathlib.Path(__file__).parents[2]
  digest = hashlib.sha256()
  for place in (library, *(programs / name for name in _SOURCES)):
    for path in sorted(place.rglob('*.py')) if place.is_dir() else [place]:
      digest.update(path.read_bytes())
  return digest.hexdigest()
