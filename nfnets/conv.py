"""How a convolution is computed on each backend. Nothing else decides this.

XLA's CPU backend computes plain convolutions and matrix products close to the speed of the machine,
and everything else far from it. So there

  * a grouped convolution becomes one plain convolution per group, or, where groups are narrow, per
    32 channels with zeros between the groups (four times the products of groups of 8, and still
    the fastest): 3 to 20 times faster than XLA's own forward, up to 300 times backward;
  * a 1x1 convolution becomes a matrix product: up to 1.5 times faster forward, 5 times for the
    gradient of the weights;
  * a depthwise convolution becomes a sum of shifted products: 3 to 20 times faster.

The TPU's compiler rewrites a grouped convolution as one whose groups lie along one more spatial
axis. Written so from the start, its gradient by the input neither rearranges nor reverses the
weights first, and what comes before and after is computed within the convolutions: by the
compiler's own estimate a fifth to a quarter of the time of a convolution and its gradients.
"""

import contextlib
import contextvars
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import layout

STRATEGIES = ('auto', 'plain', 'cpu', 'tpu')
_strategy = contextvars.ContextVar('nfnets_conv_strategy', default='auto')

_DIMENSIONS = {
  1: ('NHC', 'HIO', 'NHC'),
  2: ('NHWC', 'HWIO', 'NHWC'),
  3: ('NDHWC', 'DHWIO', 'NDHWC'),
}
# With the groups, G, before the channels; weights [*kernel, I, G, O].
_ALONG_AXIS = {1: ('NHGC', 'HIGO', 'NHGC'), 2: ('NHWGC', 'HWIGO', 'NHWGC')}
# Below so many channels a plain convolution is no faster; measured for groups of 8 to 64.
_NARROW = 32
# Narrower groups take half more memory on a TPU when laid along an axis, and little less time.
_WIDE = 64


@contextlib.contextmanager
def strategy(name: str) -> Iterator[None]:
  """Chooses, for everything traced inside, how convolutions are computed.

  'plain' leaves every convolution to XLA, 'cpu' and 'tpu' rewrite them as the module says, and
  'auto' is what `jax.default_backend()` is, 'plain' on a GPU. Name one when compiling for a machine
  that this one is not. The values agree up to rounding. A function that jit has already traced
  keeps its choice. With 'cpu' a network's training call computes activations again for the gradient
  (nfnets/recompute.py), so it has no forward-mode derivative; with the others it has.

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


def written_for() -> str:
  """The backend that what is traced here is written for: 'cpu', 'tpu', or 'plain' for any."""
  chosen = _strategy.get()
  if chosen == 'auto':
    chosen = jax.default_backend()
  return chosen if chosen in STRATEGIES else 'plain'


def apart(
  function: Callable[[jax.Array], jax.Array], groups: int
) -> Callable[[jax.Array], jax.Array]:
  """Returns an elementwise function that is to come before a convolution of so many groups.

  Where the convolution has its groups along an axis, the function sees them so as well, and can
  become a part of the convolution.
  """

  def run(x: jax.Array) -> jax.Array:
    if not _is_along_axis(groups, x.shape[-1] // groups):
      return function(x)
    return function(x.reshape(*x.shape[:-1], groups, -1)).reshape(x.shape)

  return run


def _is_along_axis(groups: int, width: int) -> bool:
  """Whether a convolution of groups of so many input channels has them along an axis."""
  return groups > 1 and width >= _WIDE and written_for() == 'tpu'


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
  if isinstance(padding, str):
    windows = _windows(w.shape[:-2], rate)
    padding = lax.padtype_to_pads(x.shape[1:-1], windows, stride, padding)

  def plain(x, w, groups=1):
    return lax.conv_general_dilated(
      x,
      w,
      window_strides=stride,
      padding=padding,
      rhs_dilation=rate,
      dimension_numbers=_DIMENSIONS[num_spatial_dims],
      feature_group_count=groups,
    )

  def dense(x, w):
    """One group."""
    is_padded = any(low or high for low, high in padding)
    if math.prod(w.shape[:-2]) > 1 or is_padded:
      return plain(x, w)
    seen = lax.slice(x, (0,) * x.ndim, x.shape, (1, *stride, 1))
    # Of matrices: with more axes, the gradient of the weights begins with a slow transposition.
    product = seen.reshape(-1, x.shape[-1]) @ w.reshape(w.shape[-2:])
    return product.reshape(*seen.shape[:-1], w.shape[-1])

  if _is_along_axis(groups, w.shape[-2]) and num_spatial_dims < 3:
    return _grouped_along_axis(x, w, stride, padding, rate, groups)
  if written_for() != 'cpu':
    return plain(x, w, groups)
  if groups == 1:
    return dense(x, w)
  if groups == x.shape[-1] == w.shape[-1]:
    return _depthwise(x, w, stride, padding, rate)
  return _grouped(x, w, groups, dense)


def _windows(kernel: tuple[int, ...], rate: tuple[int, ...]) -> list[int]:
  """The pixels that a dilated kernel reaches over, along each axis."""
  return [(k - 1) * r + 1 for k, r in zip(kernel, rate, strict=True)]


def _grouped(x: jax.Array, w: jax.Array, groups: int, dense: Callable[..., jax.Array]) -> jax.Array:
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


def _grouped_along_axis(
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


def _depthwise(
  x: jax.Array,
  w: jax.Array,
  stride: tuple[int, ...],
  padding: Sequence[tuple[int, int]],
  rate: tuple[int, ...],
) -> jax.Array:
  """Sums, over the taps of the kernel w [*kernel, 1, C], the shifted inputs times the tap."""
  kernel = w.shape[:-2]
  windows = _windows(kernel, rate)
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
