"""Activation statistics of any Haiku network, without code in the network.

[SigProp]: Brock, De, Smith, arXiv 2101.08692.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import execution
from nfnets.execution.space_to_depth import as_map

_Params = Mapping[str, Mapping[str, Any]]

# Rules of thumb of `diagnose`. A healthy network stays well inside: the published ones, freshly
# initialised, grow at most 50-fold (a stage of 50 batch-normalised blocks), shrink at most 15-fold
# on images with the spectrum of photographs, and have a squared mean of about half the variance
# (batch normalisation) or less.
_EXPLODING = 100.0  # times the variance before the first block
_COLLAPSING = 0.02  # times the same
_SHIFTED = 1.0  # squared channel mean over channel variance
_FADING = 0.05  # branch variance, and the same over that of the block's input
_FADING_ADDED = 0.002  # the same where it was measured behind its factor, such as 0.2


class BlockStatistics(NamedTuple):
  """One block of a network on one batch; every number is a mean over channels."""

  path: str  # of the module
  average_squared_mean: float  # of the output
  average_variance: float  # of the output
  branch_variance: float | None  # of the residual branch, where the block has one
  branch_is_scaled: bool  # measured as it is added, with its factor (alpha) if it has any
  input_variance: float
  changes_shape: bool  # of its input, as the first block of a stage does


def average_squared_mean(x: jax.Array) -> jax.Array:
  """Mean over channels of the squared channel mean of x [N, H, W, C] ([SigProp] section 3)."""
  return jnp.mean(jnp.square(jnp.mean(x, axis=tuple(range(x.ndim - 1)))))


def average_variance(x: jax.Array) -> jax.Array:
  """Mean over channels of the channel variance of x [N, H, W, C] ([SigProp] section 3)."""
  return jnp.mean(jnp.var(x, axis=tuple(range(x.ndim - 1))))


def measure(
  network: Callable[..., Any],
  params: _Params,
  *args: Any,
  methods: tuple[str, ...] = ('stem', 'residual', '__call__'),
  rng: jax.Array | None = None,
  state: _Params | None = None,
) -> tuple[dict[str, dict[str, jax.Array]], Any]:
  """Runs a network once and measures what its modules' methods returned.

      statistics, _ = nfnets.signal_propagation.measure(forward, params, images)
      for path, values in statistics.items():
        print(path, values['average_variance'])

  Args:
    network: a function that builds and calls Haiku modules, as given to `hk.transform`.
    params: its parameters.
    *args: the network's arguments.
    methods: the methods whose outputs are measured, if they are arrays of rank 4.
    rng: key, for networks that draw random numbers.
    state: its state, such as running statistics; None: it has none.

  Returns:
    The statistics, `<module path>.<method>` in order of execution -> {'average_squared_mean',
    'average_variance'}, float32 scalars, where `__call__` is written as the module path alone; and
    what the network returned.
  """

  @jax.jit
  def run(params, state, *args):
    statistics = {}

    def record(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if context.method_name in methods and _is_map(out):
        path = context.module.module_name
        path += '' if context.method_name == '__call__' else f'.{context.method_name}'
        wide = as_map(out).astype(jnp.float32)
        statistics[path] = {
          'average_squared_mean': average_squared_mean(wide),
          'average_variance': average_variance(wide),
        }
      return out

    with hk.intercept_methods(record):
      out, _ = hk.transform_with_state(network).apply(params, state, rng, *args)
    order.extend(statistics)  # jit returns dictionaries sorted by key
    return statistics, out

  order: list[str] = []
  statistics, out = run(params, state or {}, *args)
  return {path: statistics[path] for path in order}, out


def measure_blocks(
  network: Callable[..., Any],
  params: _Params,
  *args: Any,
  rng: jax.Array | None = None,
  state: _Params | None = None,
) -> list[BlockStatistics]:
  """Runs a network once and measures its blocks: what a signal propagation plot shows.

  A block is a module that holds at least two convolutions, maps [N, H, W, C] to the same rank, and
  contains no other such module. In a network without blocks, single convolutions are measured.

  The branch of a block is what its method `residual` returns, if it has one; otherwise, including
  the factor applied to it, the block's output minus what its method `shortcut` returns, or, in a
  block that keeps the shape, minus its input.

  The network runs operation by operation, since compiling a deep network would take longer. Skip
  gains of zero hide the branches: see `nfnets.initialization.open_branches`.

  Args:
    network: a function that builds and calls Haiku modules, as given to `hk.transform`.
    params: its parameters.
    *args: what to call it with.
    rng: key, for networks that draw random numbers.
    state: its state, such as running statistics; None: it has none.

  Returns:
    The blocks in order of execution.

  Raises:
    ValueError: the network has no convolution.
  """
  apply = hk.transform_with_state(network).apply
  maps: list[str] = []

  def find(next_fun, args, kwargs, context):
    out = next_fun(*args, **kwargs)
    is_call = context.method_name == '__call__' and args and _is_map(args[0]) and _is_map(out)
    # Channel attention has one number a channel.
    if is_call and (out.shape[1:3] != (1, 1) or args[0].shape[1:3] == (1, 1)):
      maps.append(context.module.module_name)
    return out

  with hk.intercept_methods(find):
    jax.eval_shape(apply, params, state or {}, rng, *args)
  paths = _blocks(params, maps)
  rows: list[BlockStatistics] = []
  parts: dict[str, dict[str, jax.Array]] = {}

  def record(next_fun, args, kwargs, context):
    out = next_fun(*args, **kwargs)
    path, method = context.module.module_name, context.method_name
    if path in paths and method in ('residual', 'shortcut') and _is_map(out):
      parts.setdefault(path, {})[method] = out
    if path in paths and method == '__call__':
      rows.append(_statistics(path, args[0], out, parts.pop(path, {})))
    return out

  # Grouped convolutions in one operation each: several hundred small ones take long to prepare. And
  # a packed stem does not call its convolutions.
  with hk.intercept_methods(record), execution.strategy('plain', space_to_depth='off'):
    apply(params, state or {}, rng, *args)
  return rows


def diagnose(blocks: Sequence[BlockStatistics]) -> list[str]:
  """Returns one sentence for each thing that is wrong with a network's signal, saying where.

  The limits are rules of thumb for initialisation, when the input is like normalised images
  (variance near 1, neighbouring pixels similar).

  Args:
    blocks: from `measure_blocks`.
  """
  places = [f'block {i} of {len(blocks)} ({b.path})' for i, b in enumerate(blocks, 1)]
  infinite = (
    i
    for i, b in enumerate(blocks)
    if not math.isfinite(b.average_variance + b.average_squared_mean)
  )
  findings = []
  if (where := next(infinite, None)) is not None:
    findings.append(f'Not finite: {places[where]} is the first with NaN or infinity.')
    blocks = blocks[:where]
  findings.extend(_diagnose_variance(blocks, places))
  shifts = [b.average_squared_mean / max(b.average_variance, 1e-30) for b in blocks]
  first = next((i for i, shift in enumerate(shifts) if shift > _SHIFTED), None)
  if first is not None:
    worst = max(range(len(shifts)), key=shifts.__getitem__)
    findings.append(
      f'Mean shift: from {places[first]} on, the squared channel mean exceeds the channel '
      f'variance; the most is {shifts[worst]:.3g} times, at {places[worst]}. Standardised '
      'weights (nfnets.WSConv2D) keep the means at zero.'
    )
  faded = [
    i
    for i, b in enumerate(blocks)
    if b.branch_variance is not None
    and b.branch_variance
    < (_FADING_ADDED if b.branch_is_scaled else _FADING) * min(1.0, max(b.input_variance, 1e-30))
  ]
  if faded:
    findings.append(
      f'Fading branches: {len(faded)} of {len(blocks)}, first that of {places[faded[0]]} '
      f'with a variance of {blocks[faded[0]].branch_variance:.3g}. Scale the activations '
      '(nfnets.activations.scaled) so that each layer keeps the variance.'
    )
  return findings


def _diagnose_variance(blocks: Sequence[BlockStatistics], places: Sequence[str]) -> Iterator[str]:
  if not blocks:
    return
  start = max(blocks[0].input_variance, 1e-30)
  ratios = [b.average_variance / start for b in blocks]
  first = next((i for i, ratio in enumerate(ratios) if ratio > _EXPLODING), None)
  if first is not None:
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    yield (
      f'Exploding variance: from {start:.3g} before the first block to '
      f'{blocks[worst].average_variance:.3g} after {places[worst]}, on average '
      f'{ratios[worst] ** (1 / (worst + 1)):.3g} times with each block; past {_EXPLODING:g} times '
      f'the start at {places[first]}. Divide what enters a branch by its expected standard '
      'deviation and add the branch with a small factor: x + alpha * branch(x / expected_std).'
    )
  first = next((i for i, ratio in enumerate(ratios) if ratio < _COLLAPSING), None)
  if first is not None:
    worst = min(range(len(ratios)), key=ratios.__getitem__)
    yield (
      f'Collapsing variance: from {start:.3g} before the first block to '
      f'{blocks[worst].average_variance:.3g} after {places[worst]}; below '
      f'{_COLLAPSING:g} of the start at {places[first]}. Scale the activations '
      '(nfnets.activations.scaled) and initialise the weights with variance 1 / fan_in.'
    )


def _statistics(
  path: str, x: jax.Array, out: jax.Array, parts: Mapping[str, jax.Array]
) -> BlockStatistics:
  """The statistics of one call of a block."""
  branch = parts.get('residual')
  is_scaled = branch is None
  if branch is None and 'shortcut' in parts:
    branch = out - parts['shortcut']
  elif branch is None and x.shape == out.shape:
    branch = out - x
  wide = out.astype(jnp.float32)
  return BlockStatistics(
    path=path,
    average_squared_mean=float(average_squared_mean(wide)),
    average_variance=float(average_variance(wide)),
    branch_variance=None if branch is None else float(average_variance(branch.astype(jnp.float32))),
    branch_is_scaled=is_scaled and branch is not None,
    input_variance=float(average_variance(x.astype(jnp.float32))),
    changes_shape=x.shape != out.shape,
  )


def _blocks(params: _Params, maps: Sequence[str]) -> set[str]:
  """The paths of `maps` that are blocks, or of convolutions if there are none."""
  convs = [
    module
    for module, entries in params.items()
    if any(name == 'w' and jnp.ndim(value) == 4 for name, value in entries.items())
  ]
  if not convs:
    raise ValueError('The network has no convolution (a parameter w of rank 4) to measure.')
  holders = {path for path in maps if sum(c.startswith(f'{path}/') for c in convs) > 1}
  inner = {h for h in holders if not any(o.startswith(f'{h}/') for o in holders)}
  return inner or set(convs) & set(maps)


def _is_map(x: Any) -> bool:
  return getattr(x, 'ndim', None) == 4
