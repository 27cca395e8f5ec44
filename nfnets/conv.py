"""How a convolution is computed on each backend. Nothing else decides this.

XLA's CPU backend runs grouped convolutions several times slower than one plain convolution per
group followed by a concatenation, forward and backward, so that is what happens there; and
depthwise ones 3 to 20 times slower than a sum of shifted products, so they become that.
"""

import contextlib
import contextvars
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jax import lax

STRATEGIES = ('auto', 'plain', 'split')
_strategy = contextvars.ContextVar('nfnets_conv_strategy', default='auto')

_DIMENSIONS = {
  1: ('NHC', 'HIO', 'NHC'),
  2: ('NHWC', 'HWIO', 'NHWC'),
  3: ('NDHWC', 'DHWIO', 'NDHWC'),
}


@contextlib.contextmanager
def strategy(name: str) -> Iterator[None]:
  """Chooses, for everything traced inside, how grouped convolutions are computed.

  'auto' decides by `jax.default_backend()`, 'plain' leaves groups to XLA (right when compiling
  ahead of time for an accelerator from a machine without one), 'split' runs one convolution per
  group, or a sum over the kernel's taps where each channel is a group. The values agree up to
  rounding. A function that jit has already traced keeps its choice.

  Raises:
    ValueError: there is no such strategy.
  """
  if name not in STRATEGIES:
    raise ValueError(f'Unknown convolution strategy {name!r}: choose one of {STRATEGIES}.')
  token = _strategy.set(name)
  try:
    yield
  finally:
    _strategy.reset(token)


def _splits_groups() -> bool:
  chosen = _strategy.get()
  return chosen == 'split' or (chosen == 'auto' and jax.default_backend() == 'cpu')


def conv(
  x: jax.Array,
  w: jax.Array,
  *,
  stride: int | Sequence[int] = 1,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
  rate: int | Sequence[int] = 1,
  groups: int = 1,
) -> jax.Array:
  """Convolves channels-last inputs in one, two or three spatial dimensions.

  Args:
    x: [N, *spatial, I] inputs.
    w: [*kernel, I / groups, O] weights, of the inputs' dtype.
    stride: window strides, one for all spatial dimensions or one each.
    padding: 'SAME', 'VALID' or (low, high) for each spatial dimension.
    rate: kernel dilation, as stride.
    groups: number of feature groups.

  Returns:
    [N, *spatial_out, O], of the inputs' dtype.
  """
  num_spatial_dims = x.ndim - 2
  stride = (stride,) * num_spatial_dims if isinstance(stride, int) else tuple(stride)
  rate = (rate,) * num_spatial_dims if isinstance(rate, int) else tuple(rate)

  def plain(x, w, groups):
    return lax.conv_general_dilated(
      x,
      w,
      window_strides=stride,
      padding=padding,
      rhs_dilation=rate,
      dimension_numbers=_DIMENSIONS[num_spatial_dims],
      feature_group_count=groups,
    )

  if 1 < groups == x.shape[-1] == w.shape[-1] and _splits_groups():
    return _depthwise(x, w, stride, padding, rate)
  # With very many groups one convolution each would be worse than XLA's own.
  if groups == 1 or groups > 64 or not _splits_groups():
    return plain(x, w, groups)
  inputs = jnp.split(x, groups, axis=-1)
  weights = jnp.split(w, groups, axis=-1)
  return jnp.concatenate([plain(i, k, 1) for i, k in zip(inputs, weights, strict=True)], axis=-1)


def _depthwise(
  x: jax.Array,
  w: jax.Array,
  stride: tuple[int, ...],
  padding: str | Sequence[tuple[int, int]],
  rate: tuple[int, ...],
) -> jax.Array:
  """Sums, over the taps of the kernel w [*kernel, 1, C], the shifted inputs times the tap."""
  kernel = w.shape[:-2]
  windows = [(k - 1) * r + 1 for k, r in zip(kernel, rate, strict=True)]
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:-1], windows, stride, padding)
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
