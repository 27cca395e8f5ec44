"""Grouped convolutions, written as what a backend computes quickly."""

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import layout

from nfnets.execution import context

# With the groups, G, before the channels; weights [*kernel, I, G, O].
_ALONG_AXIS = {1: ('NHGC', 'HIGO', 'NHGC'), 2: ('NHWGC', 'HWIGO', 'NHWGC')}
# Below so many channels a plain convolution is no faster; measured for groups of 8 to 64.
_NARROW = 32


def split(x: jax.Array, w: jax.Array, groups: int, dense: Callable[..., jax.Array]) -> jax.Array:
  """Convolves runs of adjacent groups with `dense`, as many together as make 32 channels."""
  in_width, out_width = w.shape[-2], w.shape[-1] // groups
  together = max(1, _NARROW // in_width)
  outputs = []
  for start in range(0, groups, together):
    stop = min(start + together, groups)
    inputs = x[..., start * in_width : stop * in_width]
    weights = w[..., start * out_width : stop * out_width]
    outputs.append(dense(inputs, _block_diagonal(weights, stop - start)))
  return jnp.concatenate(outputs, axis=-1)


def _block_diagonal(w: jax.Array, groups: int) -> jax.Array:
  """Weights [*kernel, I / groups, O] of a grouped convolution as those [*kernel, I, O] of one."""
  if groups == 1:
    return w
  in_width, out_width = w.shape[-2], w.shape[-1] // groups
  tiled = jnp.concatenate([w] * groups, axis=-2)
  return tiled * np.kron(np.eye(groups), np.ones((in_width, out_width))).astype(w.dtype)


def along_axis(
  x: jax.Array,
  w: jax.Array,
  stride: tuple[int, ...],
  padding: Sequence[tuple[int, int]],
  rate: tuple[int, ...],
  groups: int,
) -> jax.Array:
  """Convolves with the groups along one more spatial axis.

  Along it the inputs are `groups` places apart, with zeros between, and windows of `groups` places
  begin every `groups - 1` places: window g has the places from (groups - 1) * g on, and of the
  inputs, at multiples of `groups`, only number g is there, under the window's weights of group g.
  """
  n = x.ndim - 2
  # Row by row, as the parameters are, or the compiler copies each in float32 for the update.
  if context.keeps_layout():
    w = layout.with_layout_constraint(w, layout.Layout(major_to_minor=tuple(range(w.ndim))))
  out = lax.conv_general_dilated(
    x.reshape(*x.shape[:-1], groups, -1),
    w.reshape(*w.shape[:-1], groups, -1),
    window_strides=(*stride, groups - 1),
    padding=(*padding, (0, 0)),
    lhs_dilation=(1,) * n + (groups,),
    rhs_dilation=(*rate, 1),
    dimension_numbers=_ALONG_AXIS[n],
  )
  return out.reshape(*out.shape[:-2], -1)


def depthwise(
  x: jax.Array,
  w: jax.Array,
  stride: tuple[int, ...],
  padding: Sequence[tuple[int, int]],
  rate: tuple[int, ...],
) -> jax.Array:
  """Sums, over the taps of the kernel w [*kernel, 1, C], the shifted inputs times the tap."""
  kernel = w.shape[:-2]
  windows = reach(kernel, rate)
  pads = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
  padded = lax.pad(x, jnp.zeros((), x.dtype), pads)
  # From the first to behind the last of a tap's positions.
  extents = [
    (size - window) // s * s + 1
    for size, window, s in zip(padded.shape[1:-1], windows, stride, strict=True)
  ]
  wide = jnp.promote_types(x.dtype, jnp.float32)  # of the sum, as in XLA's own convolutions
  total = 0
  for tap in itertools.product(*map(range, kernel)):
    starts = [t * r for t, r in zip(tap, rate, strict=True)]
    ends = [start + extent for start, extent in zip(starts, extents, strict=True)]
    shifted = lax.slice(padded, (0, *starts, 0), (x.shape[0], *ends, x.shape[-1]), (1, *stride, 1))
    total += shifted.astype(wide) * w[(*tap, 0)].astype(wide)
  return total.astype(x.dtype)


def reach(kernel: tuple[int, ...], rate: tuple[int, ...]) -> list[int]:
  """The pixels that a dilated kernel reaches over, along each axis."""
  return [(k - 1) * r + 1 for k, r in zip(kernel, rate, strict=True)]
