"""The update of a data-parallel step, shared out: each device updates its part of the parameters.

Xu et al., "Automatic Cross-Replica Sharding of Weight Update in Data-Parallel Training" (arXiv
2004.13336). Instead of every device repeating the same update, gradients are reduce-scattered, a
device clips, decays and averages what it owns, and the parameters are gathered for the next
gradient. A device owns output channels, which are the units of adaptive gradient clipping: no norm
is ever divided.

Every device has all of an array that is one unit (gains, biases), small, or of fewer than D / 2
channels, D devices. The others lie on the devices as [D, ..., C / D], their C channels padded with
zeros where D does not divide them: in every optimiser here zeros stay zeros.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils

from nfnets import optim

AXIS = 'devices'
CHOICES = ('auto', 'on', 'off')

# Arrays with fewer elements stay whole: to send one around takes longer than to update it.
_FEWEST_ELEMENTS = 1024


def num_shares(choice: str, devices: Sequence[jax.Device]) -> int:
  """Returns among how many the update is shared out: all devices, or 1 for a replicated update.

  Args:
    choice: one of CHOICES; 'auto' shares it out among accelerators.
    devices: of all processes.
  """
  shared = choice == 'on' or (choice == 'auto' and devices[0].platform != 'cpu')
  return len(devices) if shared else 1


@dataclasses.dataclass(frozen=True)
class UpdateSharding:
  """Which arrays of a train state are shared out, and how.

  Attributes:
    num_shares: D; 1 leaves everything whole.
    whole: the state, its arrays' natural shapes and dtypes.
    own: the same of what one device has. Arrays differ in their last axis alone, if at all.
  """

  num_shares: int = 1
  whole: Any = None
  own: Any = None

  @property
  def axes(self) -> Any:
    """A state for pmap's in_axes: 0 at what is shared out, else None. None if nothing is."""
    if self.is_whole:
      return None
    return jax.tree.map(_axis, self.whole, self.own)

  @property
  def flat_axes(self) -> tuple[int | None, ...] | None:
    """The same of a state's leaves, for out_axes, which must be hashable with several processes."""
    if self.is_whole:
      return None
    return tuple(map(_axis, *map(jax.tree.leaves, (self.whole, self.own))))

  @property
  def placed(self) -> Any:
    """The shapes and dtypes of a state as it lies on all devices."""
    return jax.tree.map(self._placed_shape, self.whole, self.own)

  @property
  def is_whole(self) -> bool:
    """Whether every device has everything."""
    return self.num_shares == 1

  # ------------------------------------------------------- in a step, on one device

  def mean(self, grads: Any) -> Any:
    """Averages gradients like the parameters over the devices; returns what this one owns."""
    if self.is_whole:
      return lax.pmean(grads, AXIS)

    def mean(x: jax.Array, own: Any) -> jax.Array:
      if x.shape == own.shape:
        return lax.pmean(x, AXIS)
      x = _padded(x, own.shape[-1] * self.num_shares)
      x = lax.psum_scatter(x, AXIS, scatter_dimension=x.ndim - 1, tiled=True)
      return x / self.num_shares

    return jax.tree.map(mean, grads, self.own.params)

  def take(self, grads: Any) -> Any:
    """Returns what this device owns of gradients that all devices have whole."""
    if self.is_whole:
      return grads

    def take(x: jax.Array, own: Any) -> jax.Array:
      if x.shape == own.shape:
        return x
      width = own.shape[-1]
      x = _padded(x, width * self.num_shares)
      return lax.dynamic_slice_in_dim(x, lax.axis_index(AXIS) * width, width, axis=-1)

    return jax.tree.map(take, grads, self.own.params)

  def gather(self, params: Any, dtype: Any = None) -> Any:
    """Puts together parameters, or averages of them, that the devices own.

    Args:
      params: as in the state.
      dtype: of what is sent around, and so of the result where it is shared out; None: as it is.
    """
    if self.is_whole:
      return params

    def gather(x: jax.Array, whole: Any) -> jax.Array:
      if x.shape == whole.shape:
        return x
      x = lax.all_gather(x.astype(dtype or x.dtype), AXIS, axis=x.ndim - 1, tiled=True)
      return x[..., : whole.shape[-1]]

    return jax.tree.map(gather, params, self.whole.params)

  def total(self, values: jax.Array) -> jax.Array:
    """Adds up sums over what a device owns of each parameter [number of parameters]."""
    if self.is_whole:
      return values
    pairs = jax.tree.map(lambda a, b: a.shape != b.shape, self.whole.params, self.own.params)
    shared = np.array(jax.tree.leaves(pairs))
    return jnp.where(shared, lax.psum(jnp.where(shared, values, 0), AXIS), values)

  def whole_units(self, counts: Any) -> Any:
    """The numbers of units of whole parameters, of those of the devices' shares."""
    if self.is_whole:
      return counts
    # Only the last axis is shared out, and it is summed over in no unit.
    return jax.tree.map(
      lambda n, whole, own: n * whole.shape[-1] // own.shape[-1] if whole.shape != own.shape else n,
      counts,
      self.whole.params,
      self.own.params,
    )

  # ------------------------------------------------------- on the host

  def place(self, state: Any, part: str | None = None) -> Any:
    """Puts a whole state, or the part of it of that name, on this process's devices."""
    whole, own = self.whole, self.own
    if part is not None:
      whole, own = getattr(whole, part), getattr(own, part)
    return jax.tree.map(self._place, state, whole, own)

  def fetch(self, state: Any) -> Any:
    """Copies a state from the devices: whole, numpy arrays, of several processes in the first.

    All processes must call it. The others get None. All transfers are started before the first one
    is waited for.
    """
    leaves, structure = jax.tree.flatten(state)
    wholes = leaves if self.is_whole else jax.tree.leaves(self.whole)
    started = [_start_copy(x, whole.shape) for x, whole in zip(leaves, wholes, strict=True)]
    copies = [finish() for finish in started]
    return jax.tree.unflatten(structure, copies) if jax.process_index() == 0 else None

  def _place(self, x: Any, whole: Any, own: Any) -> jax.Array:
    if whole.shape == own.shape:
      return jax.device_put(x, _local_sharding())
    count = jax.local_device_count()
    first = jax.process_index() * count
    rows = self._split(np.asarray(x), own)[first : first + count]
    return jax.device_put(rows, _local_sharding(AXIS))

  def _split(self, x: np.ndarray, own: Any) -> np.ndarray:
    """[..., C] -> [D, ..., C / D]."""
    width = own.shape[-1]
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width * self.num_shares - x.shape[-1])])
    return np.moveaxis(x.reshape(*x.shape[:-1], self.num_shares, width), -2, 0)

  def _placed_shape(self, whole: Any, own: Any) -> jax.ShapeDtypeStruct:
    lead = () if whole.shape == own.shape else (self.num_shares,)
    return jax.ShapeDtypeStruct((*lead, *own.shape), own.dtype)


def _local_sharding(*axes: str) -> jax.sharding.NamedSharding:
  mesh = jax.sharding.Mesh(jax.local_devices(), (AXIS,))
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


REPLICATED = UpdateSharding()


def plan(
  begin: Callable[[Any, Any], Any], params: Any, network_state: Any, *, num_shares: int
) -> UpdateSharding:
  """Decides which arrays of a train state are shared out.

  Args:
    begin: (parameters, network_state) -> the train state that begins with them. What it keeps for
      an array of the parameters has that array's shape.
    params: arrays or shapes.
    network_state: the same; every device has all of it.
    num_shares: D.
  """
  whole = jax.eval_shape(begin, params, network_state)
  own_params = jax.tree.map(lambda x: _own_shape(x, num_shares), params)
  return UpdateSharding(num_shares, whole, jax.eval_shape(begin, own_params, network_state))


def _axis(whole: Any, own: Any) -> int | None:
  return None if whole.shape == own.shape else 0


def _own_shape(x: Any, num_shares: int) -> jax.ShapeDtypeStruct:
  """The shape of what a device owns of a parameter."""
  whole = tuple(x.shape)
  if math.prod(whole) >= _FEWEST_ELEMENTS and 1 < num_shares <= 2 * whole[-1]:
    own = (*whole[:-1], math.ceil(whole[-1] / num_shares))
    # A unit is all of a share, if any of it. Axes of length 1 do not matter.
    summed, kept = ({axis for axis in optim.unit_axes(s) if own[axis] > 1} for s in (whole, own))
    if len(whole) - 1 not in optim.unit_axes(whole) and summed == kept:
      return jax.ShapeDtypeStruct(own, x.dtype)
  return jax.ShapeDtypeStruct(whole, x.dtype)


def _start_copy(x: jax.Array, shape: tuple[int, ...]) -> Callable[[], np.ndarray]:
  """Starts to copy an array to the host; returns what waits for it and gives it its whole shape."""
  if x.shape == shape:
    piece = x.addressable_data(0)
    piece.copy_to_host_async()
    return lambda: np.array(piece)  # no view of a buffer that the next step overwrites
  if jax.process_count() > 1:  # one at a time, as the devices have no room for all of them
    rows = multihost_utils.process_allgather(x, tiled=True)
    return lambda: _joined(rows, shape)
  pieces = [x.addressable_data(i) for i in range(len(x.addressable_shards))]
  for piece in pieces:
    piece.copy_to_host_async()
  return lambda: _joined([np.asarray(piece)[0] for piece in pieces], shape)


def _joined(rows: Iterable[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
  """D arrays [..., C / D] -> a new one of this shape, [..., C]."""
  return np.ascontiguousarray(np.concatenate([*rows], axis=-1)[..., : shape[-1]])


def _padded(x: jax.Array, width: int) -> jax.Array:
  return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
