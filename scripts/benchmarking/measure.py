"""What is measured, in which order, and the rows that come out of it."""

import contextlib
import dataclasses
import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from scripts.benchmarking.child import Child, ChildError
from scripts.benchmarking.runtime_worker import PACKAGES

# All contestants stay in a GPU's memory together, so none may take most of it.
SHARES_GPU = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'}
TASKS = ('predict', 'gradient', 'step')
_LEAST_ROUNDS = 3
_LEAST_SECONDS = 0.2  # of a contestant's turn; quicker calls are repeated
_MOST_CALLS = 100

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """One thing to do, for every contestant."""

  name: str  # of the model
  model: Mapping[str, Any]  # what `config.model` of a training run says of it
  task: str
  batch: int
  size: int  # pixels
  dtype: str = 'float32'

  @property
  def key(self) -> Row:
    """What identifies the case in a file of results."""
    fields = ('task', 'batch', 'size', 'dtype')
    return {'model': self.name, **{field: getattr(self, field) for field in fields}}

  def __str__(self) -> str:
    """As progress shows it."""
    return f'{self.name} {self.task} {self.batch} x {self.size} px'


@dataclasses.dataclass(frozen=True)
class Options:
  """How to measure."""

  rounds: int = 9
  seconds_limit: float = math.inf  # of a case's rounds; at least three are made
  peer_python: str = sys.executable
  runtime_python: str = sys.executable
  alone: bool = False  # one contestant after the other, for what does not fit into memory together


def timm_name(name: str) -> str:
  """Returns what timm calls the model, or what it would.

  F0 -> dm_nfnet_f0, NF-ResNet-50 -> nf_resnet50, NF-RegNet-B1 -> nf_regnet_b1, EfficientNet-B0 ->
  efficientnet_b0, BN-ResNet-50 -> resnetv2_50; its own names as they are.
  """
  if re.fullmatch(r'F\d\+?', name):
    return f'dm_nfnet_{name.lower()}'
  for ours, timms in (
    ('NF-ResNet-', 'nf_resnet'),
    ('NF-RegNet-', 'nf_regnet_'),
    ('BN-ResNet-', 'resnetv2_'),
    ('EfficientNet-', 'efficientnet_'),
  ):
    if name.startswith(ours):
      return timms + name.removeprefix(ours).lower()
  return name


def contestants_of(
  case: Case, baselines: Sequence[str], peers: Sequence[str], runtimes: Sequence[str] = ()
) -> list[str]:
  """Returns who takes part, ours first."""
  predicts = case.task == 'predict'
  chosen = ['ours', *(b for b in baselines if b != 'unfolded' or predicts)]
  chosen += runtimes if predicts else []
  if 'timm' in peers:
    chosen += ['timm', 'timm-contiguous']
  return chosen + [peer for peer in peers if peer != 'timm']


class Contestant:
  """A worker that is ready to do one case, and what it has been measured to do."""

  def __init__(self, name: str, case: Case, info: Mapping[str, Any], options: Options):
    """Starts the process; `prepare` does the work."""
    self.row: Row = {**case.key, 'contestant': name, 'seconds': []}
    self._case = case
    self._info = info
    self._options = options
    self._child: Child | None = None
    self._calls = self._untimed = 0

  @property
  def ready(self) -> bool:
    """Whether it has a process that can be timed."""
    return self._child is not None

  def prepare(self) -> None:
    """Starts its process, builds the model and warms up."""
    self._guarded(self._prepare)

  def measure(self) -> None:
    """Adds the mean seconds of a call in its next turn."""
    self._guarded(self._measure)

  def finish(self) -> Row:
    """Ends the process and returns the row."""
    if self._child is not None and self.row['seconds']:
      self._guarded(lambda: self.row.update(self._child.ask('memory')))
    self.close()
    self.row.update(summary(self.row))
    return self.row

  def close(self) -> None:
    """Ends the process."""
    if self._child is not None:
      self._child.close()
      self._child = None

  def _guarded(self, action: Callable[[], None]) -> None:
    try:
      action()
    except ChildError as error:
      self.row['failed'] = str(error)
      self.close()

  def _prepare(self) -> None:
    name, case, info = self.row['contestant'], self._case, self._info
    if name.startswith('timm'):
      self._child = Child('scripts.benchmarking.timm_worker', self._options.peer_python)
      rates = {'drop_rate': info['drop_rate'], 'drop_path_rate': info['stochdepth_rate']}
      told = {'timm_name': timm_name(case.name), 'rates': rates}
    elif 'failed' in info['files']:
      raise ChildError(info['files']['failed'])
    elif name in PACKAGES:
      self._child = Child('scripts.benchmarking.runtime_worker', self._options.runtime_python)
      told = {'files': info['files']}
    else:
      self._child = Child('scripts.benchmarking.jax_worker', **SHARES_GPU)
      told = {'model': case.model, 'files': info['files']}
    shape = {'task': case.task, 'batch': case.batch, 'size': case.size, 'dtype': case.dtype}
    ready = self._child.ask('prepare', contestant=name, **told, **shape)
    self.row['first_seconds'] = ready['first_seconds']
    self._calls = min(max(math.ceil(_LEAST_SECONDS / ready['seconds']), 1), _MOST_CALLS)
    # The caches are full of another contestant's numbers; a long call does not notice.
    self._untimed = int(ready['seconds'] < 1)

  def _measure(self) -> None:
    seconds = self._child.ask('time', calls=self._calls, untimed=self._untimed)['seconds']
    self.row['seconds'].append(statistics.fmean(seconds))


def summary(row: Row) -> Row:
  """Returns 'median' seconds, 'spread' (interquartile range / median) and 'images_per_second'."""
  seconds = row['seconds']
  if 'failed' in row or not seconds:
    return {}
  median = statistics.median(seconds)
  spread = 0.0
  if len(seconds) > 1:
    low, _, high = statistics.quantiles(seconds, n=4, method='inclusive')
    spread = (high - low) / median
  return {'median': median, 'spread': spread, 'images_per_second': row['batch'] / median}


def run_case(
  case: Case,
  names: Sequence[str],
  info: Mapping[str, Any],
  options: Options,
  say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
  """Measures all contestants at one case.

  Args:
    case: what they do.
    names: who takes part.
    info: of the model, from Planner.describe; and 'files', from Planner.make_weights.
    options: how.
    say: is told what happens.

  Returns:
    One row for each contestant; what failed says so under 'failed'.
  """
  rows = []
  for group in [[name] for name in names] if options.alone else [list(names)]:
    contestants = [Contestant(name, case, info, options) for name in group]
    with contextlib.ExitStack() as stack:
      for contestant in contestants:
        stack.callback(contestant.close)
      for contestant in contestants:
        say(f'{case}: {contestant.row["contestant"]} compiles and warms up')
        contestant.prepare()
      _take_turns(contestants, options, lambda text: say(f'{case}: {text}'))
      rows += [contestant.finish() for contestant in contestants]
  return rows


def _take_turns(
  contestants: Sequence[Contestant], options: Options, say: Callable[[str], None]
) -> None:
  """Each round begins with another contestant, so that none always follows the same one."""
  began = time.monotonic()
  for number in range(options.rounds):
    if number >= _LEAST_ROUNDS and time.monotonic() - began > options.seconds_limit:
      break
    say(f'round {number + 1} of {options.rounds}')
    first = number % len(contestants)
    for contestant in (*contestants[first:], *contestants[:first]):
      if contestant.ready:
        contestant.measure()


def add_rates(rows: Iterable[Row], flops: int | None, ceiling: float | None) -> None:
  """Adds 'flops' of a call, 'gflops_per_second' and 'share_of_ceiling' to rows of one case."""
  for row in rows:
    if flops and 'median' in row:
      rate = flops / row['median']
      row |= {'flops': flops, 'gflops_per_second': rate / 1e9}
      row['share_of_ceiling'] = rate / ceiling if ceiling else None
