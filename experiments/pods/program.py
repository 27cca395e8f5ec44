"""Compiling a config's train step for TPUs that are not there."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from experiments.data import Batch
from experiments.pods import costs
from experiments.pods.chips import Topology
from experiments.runtime.errors import ConfigError
from experiments.training import steps, update_sharding
from experiments.training.settings import Run
from nfnets import execution, installation

Say = Callable[[str], None]

# The compiler asks no server what machine this is, and may be loaded by several processes.
_ENVIRONMENT = {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}


class TooLargeError(Exception):
  """A program needs more memory than its devices have."""

  def __init__(self, needed: int):
    """Keeps the bytes that it needs."""
    super().__init__(f'the program needs {needed} bytes')
    self.needed = needed


def describe(topology: Topology) -> list[jax.Device]:
  """Returns devices to compile for.

  Raises:
    ConfigError: the compiler is not installed, or knows no such topology.
  """
  from jax.experimental import topologies

  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)
  try:
    import libtpu  # noqa: F401
  except ImportError:
    raise ConfigError(f'the TPU compiler is not installed: {installation.command("tpu")}') from None
  try:
    described = topologies.get_topology_desc(topology_name=topology.name, platform='tpu')
  except (RuntimeError, NotImplementedError, ValueError) as error:
    raise ConfigError(
      f'the compiler knows no topology {topology.name!r} ({_first_line(error)}); a small one is '
      f'{topology.smallest.name}'
    ) from None
  return list(described.devices)


def lower(run: Run, devices: list[jax.Device], batch: int) -> jax.stages.Lowered:
  """Traces and lowers the train step that `experiments.train` would run.

  Args:
    run: read for the backend 'tpu'.
    devices: to compile for.
    batch: images of each device in an update.

  Raises:
    ConfigError: the run is private.
  """
  if run.budget is not None:
    raise ConfigError(
      'plans are of ordinary steps, and this config is private: plan it with '
      '--config.private.epsilon=None, and see docs/private.md for what privacy adds.'
    )
  *size, channels = run.data.train_shape
  # The choices of the backend that is compiled for: this process has another.
  with execution.strategy('tpu', space_to_depth='on'):
    shares = update_sharding.num_shares(run.sharded_update, devices)
    sharding = steps.plan_sharding(
      run.network, run.optimizer, tuple(size), shares, channels=channels
    )
    step = steps.make_train_step(
      run.network, run.optimizer, run.step, devices=devices, sharding=sharding
    )
    return step.lower(sharding.placed, _batch_shapes(run, len(devices), batch))


def _batch_shapes(run: Run, num_devices: int, batch: int) -> Batch:
  lead = (num_devices, batch)

  *size, channels = run.data.train_shape

  def shape(dtype: Any, *rest: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*lead, *rest), dtype)

  return Batch(
    images=shape(jnp.dtype(run.layout.dtype), *run.layout.shape(tuple(size), channels)),
    labels=shape(jnp.int32),
    mix_labels=shape(jnp.int32),
    mix_ratio=shape(jnp.float32),
    mask=shape(jnp.float32),
  )


def compile_costs(run: Run, topology: Topology, batch: int, *, say: Say) -> costs.Costs:
  """Compiles the train step and returns what it costs.

  Raises:
    TooLargeError: it does not fit into a device's memory.
    ConfigError: see `describe`.
  """
  devices = describe(topology)
  began = time.monotonic()
  what = f'{run.variant}, {batch} images per device, {topology.name}'
  with _ticking(f'{what}: tracing', say):
    lowered = lower(run, devices, batch)
  try:
    with _ticking(f'{what}: compiling', say):
      compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = costs.needed_memory(str(error))
    if needed is None:
      raise
    raise TooLargeError(needed) from None
  return costs.read(compiled, time.monotonic() - began)


@contextlib.contextmanager
def _ticking(what: str, say: Say, every: float = 15.0) -> Iterator[None]:
  """Says what is going on, now, every so many seconds, and how long it took."""
  began, done = time.monotonic(), threading.Event()

  def tick() -> None:
    while not done.wait(every):
      say(f'{what}, {time.monotonic() - began:.0f} s ...')

  thread = threading.Thread(target=tick, daemon=True)
  say(f'{what} ...')
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
  say(f'{what}: {time.monotonic() - began:.1f} s')


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
