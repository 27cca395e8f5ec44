"""What a compiled TPU program costs, read from its text and the compiler's analyses."""

import collections
import dataclasses
import math
import re
from typing import Any

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_HEAD = re.compile(r'^(ENTRY )?%?([\w.\-]+) .*\{$')
_OPERATION = re.compile(r'^\s+(?:ROOT )?%?[\w.\-]+ = .*?[\])}] ([a-z][\w\-]*)\(')
_RESULT = re.compile(r' = (.*?[\])}]) (all-reduce|reduce-scatter|all-gather)(-start)?\(')
_ARRAY = re.compile(r'\b([a-z]+)(\d+)?(?:e\d+m\d+\w*)?\[([\d,]*)\]')
_GROUP = re.compile(r'replica_groups=(?:\{\{([\d,]*)\}|\[\d+,(\d+)\])')
_BODY = re.compile(r'body=%?([\w.\-]+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')

# What costs no launch: names of places and parts.
_FREE = frozenset({'parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant'})


@dataclasses.dataclass(frozen=True)
class Costs:
  """Of one device, for one step.

  Attributes:
    flops: multiplications and additions.
    bytes_accessed: read from and written to memory.
    argument_bytes: of the state and the batch.
    output_bytes: of results that do not take the place of arguments.
    temporary_bytes: at the fullest moment.
    code_bytes: of the program itself.
    cycles: the compiler's estimate, the sum over the operations that run one after another.
    optimal_seconds: the compiler's other estimate; None where it gives none.
    operations: of the entry computation, all lines of it.
    launched: those that run.
    all_reduce_bytes: that the devices sum, and all of them get. The time of this and of the other
      two is in no estimate.
    reduce_scatter_bytes: that they sum, and each gets a part of.
    all_gather_bytes: that each gets from the others and itself.
    compile_seconds: how long tracing, lowering and compiling took.
  """

  flops: float
  bytes_accessed: float
  argument_bytes: int
  output_bytes: int
  temporary_bytes: int
  code_bytes: int
  cycles: int
  optimal_seconds: float | None
  operations: int
  launched: int
  all_reduce_bytes: int
  reduce_scatter_bytes: int = 0
  all_gather_bytes: int = 0
  compile_seconds: float = 0.0

  @property
  def memory(self) -> int:
    """Bytes that a device needs."""
    return self.argument_bytes + self.output_bytes + self.temporary_bytes + self.code_bytes


@dataclasses.dataclass
class _Computation:
  cycles: int = 0
  kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  loops: list[tuple[str, int]] = dataclasses.field(default_factory=list)


def read_text(text: str) -> tuple[int, int, int]:
  """Returns (cycles, operations, launched operations) of a compiled module's entry computation.

  A loop counts as often as it runs, where the compiler knows how often.

  Raises:
    ValueError: there is no entry computation.
  """
  computations: dict[str, _Computation] = {}
  entry = current = None
  for line in text.splitlines():
    head = _HEAD.match(line)
    if head:
      current = computations[head[2]] = _Computation()
      entry = current if head[1] else entry
    elif line.startswith('}'):
      current = None
    elif current is not None:
      _count(line, current)
  if entry is None:
    raise ValueError('the compiled text has no entry computation')

  def cycles(computation: _Computation) -> int:
    inside = sum(n * cycles(computations[body]) for body, n in computation.loops)
    return computation.cycles + inside

  operations = sum(entry.kinds.values())
  launched = sum(count for kind, count in entry.kinds.items() if kind not in _FREE)
  return cycles(entry), operations, launched


def _count(line: str, computation: _Computation) -> None:
  operation = _OPERATION.match(line)
  if not operation:
    return
  computation.kinds[operation[1]] += 1
  estimate = _CYCLES.search(line)
  computation.cycles += int(estimate[1]) if estimate else 0
  if operation[1] == 'while' and (body := _BODY.search(line)):
    trips = _TRIPS.search(line)
    computation.loops.append((body[1], int(trips[1]) if trips else 1))


def read_collectives(text: str) -> dict[str, int]:
  """Returns the bytes that a compiled module sends around: 'all-reduce' -> bytes, and so on.

  Those of an all-reduce are of its result, which has the size of its operand; of a reduce-scatter
  those of its operand, of an all-gather those of its result.
  """
  sizes = {'all-reduce': 0, 'reduce-scatter': 0, 'all-gather': 0}
  for line in text.splitlines():
    found = _RESULT.search(line)
    if not found:
      continue
    arrays = [_num_bytes(*array) for array in _ARRAY.findall(found[1])]
    kind = found[2]
    if found[3] and kind != 'all-reduce':  # a pair of operands and results
      arrays = arrays[len(arrays) // 2 :]
    devices = 1
    if kind == 'reduce-scatter' and (group := _GROUP.search(line)):
      devices = int(group[2]) if group[2] else len(group[1].split(','))
    sizes[kind] += devices * sum(arrays)
  return sizes


def _num_bytes(_: str, bits: str, shape: str) -> int:
  """The size of an array such as f32[8,128]; a pred has no number and takes a byte."""
  return math.prod(int(n) for n in shape.split(',') if n) * max(int(bits or 8), 8) // 8


def read(compiled: Any, compile_seconds: float) -> Costs:
  """Reads the costs of a `jax.stages.Compiled` for one of its devices."""
  memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
  analysis = analysis[0] if isinstance(analysis, list | tuple) else analysis
  text = compiled.as_text()
  cycles, operations, launched = read_text(text)
  sent = read_collectives(text)
  optimal = analysis.get('optimal_seconds', -1.0)
  return Costs(
    flops=analysis.get('flops', 0.0),
    bytes_accessed=analysis.get('bytes accessed', 0.0),
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    cycles=cycles,
    optimal_seconds=optimal if optimal > 0 else None,
    operations=operations,
    launched=launched,
    all_reduce_bytes=sent['all-reduce'],
    reduce_scatter_bytes=sent['reduce-scatter'],
    all_gather_bytes=sent['all-gather'],
    compile_seconds=compile_seconds,
  )


# It refuses early, by the sum of what has to be kept, or late, by the finished allotment.
_OUT_OF_MEMORY = re.compile(
  r'HLO temporaries \(([\d.]+)([KMGT])\) exceeds|Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm'
)


def needed_memory(message: str) -> int | None:
  """The bytes that the compiler says a program needs when they are more than there are.

  None: the message is about something else.
  """
  match = _OUT_OF_MEMORY.search(message)
  if not match:
    return None
  number, unit = match[1] or match[3], match[2] or match[4]
  return int(float(number) * 1024 ** ('KMGT'.index(unit) + 1))
