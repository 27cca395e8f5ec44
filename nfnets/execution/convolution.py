"""How a convolution, with the operation before it, is computed on each backend.

XLA's CPU backend computes plain convolutions and matrix products at close to the machine's speed,
and everything else much more slowly. Therefore, on a CPU,

  * a grouped convolution becomes one plain convolution per group, or, where groups are narrow, per
    32 channels with zeros between the groups (four times the products of groups of 8, and still
    the fastest): 3 to 20 times faster than XLA's own forward, up to 300 times backward;
  * a 1x1 convolution becomes a matrix product: up to 1.5 times faster forward, 5 times for the
    gradient of the weights;
  * a depthwise convolution becomes a sum of shifted products: 3 to 20 times faster;
  * a training step computes the gradients of 3x3 weights by minimal filtering where that is faster.

The TPU's compiler rewrites a grouped convolution as one whose groups lie along one more spatial
axis. If it is written in this way from the start, its input gradient need not rearrange or reverse
the weights first, and what comes before and after is computed within the convolutions. By the
compiler's own estimate this saves a fifth to a quarter of the time of a convolution with its
gradients.
"""

import math
from collections.abc import Callable, Sequence

import jax
from jax import lax

from nfnets import activations
from nfnets.execution import context, grouped, minimal_filtering, space_to_depth
from nfnets.execution.recompute import recomputed
from nfnets.execution.space_to_depth import SpaceToDepth

Function = Callable[[jax.Array], jax.Array]

_DIMENSIONS = {
  1: ('NHC', 'HIO', 'NHC'),
  2: ('NHWC', 'HWIO', 'NHWC'),
  3: ('NDHWC', 'DHWIO', 'NDHWC'),
}
# Narrower groups take half more memory on a TPU when laid along an axis, and little less time.
_WIDE = 64


def convolve(
  x: jax.Array | SpaceToDepth,
  w: jax.Array,
  bias: jax.Array | None = None,
  *,
  before: Function | None = None,
  stride: int | Sequence[int] = 1,
  padding: str | Sequence[tuple[int, int]] = 'SAME',
  rate: int | Sequence[int] = 1,
  groups: int = 1,
) -> jax.Array | SpaceToDepth:
  """Convolves before(x), channels last, in one, two or three spatial dimensions.

  Args:
    x: [N, *spatial, I] inputs; computed in the dtype of the weights.
    w: [*kernel, I / groups, O] weights.
    bias: [O], added to the outputs.
    before: a function of the inputs, such as an activation; pure, of no other array that is to be
      differentiated.
    stride: window strides, one for all spatial dimensions or one each.
    padding: 'SAME', 'VALID' or (low, high) for each spatial dimension.
    rate: kernel dilation, as stride.
    groups: number of feature groups.

  Returns:
    [N, *spatial_out, O], of the weights' dtype.
  """
  x = x.astype(w.dtype)
  window = {'stride': stride, 'padding': padding, 'rate': rate, 'groups': groups}
  if isinstance(x, SpaceToDepth):
    is_plain = groups == rate == 1 and isinstance(stride, int)
    if is_plain and (before is None or activations.is_elementwise(before)):
      out = space_to_depth.convolve(
        x, w, bias, before=before, stride=stride, padding=padding, run=_computed
      )
      if out is not None:
        return out
    x = space_to_depth.as_map(x)
  if context.is_explicitly_sharded(x):  # whatever rearranges it would have to say how it then lies
    with context.strategy('plain'):
      return _computed(x, w, bias, before=before, **window)
  return _computed(x, w, bias, before=before, **window)


def _computed(
  x: jax.Array,
  w: jax.Array,
  bias: jax.Array | None,
  *,
  before: Function | None,
  padding: str | Sequence[tuple[int, int]],
  stride: int | Sequence[int] = 1,
  rate: int | Sequence[int] = 1,
  groups: int = 1,
) -> jax.Array:
  """As `convolve`, of arrays."""

  def run(x: jax.Array, w: jax.Array, *bias: jax.Array) -> jax.Array:
    x = x if before is None else _applied(before, x, groups)
    out = _convolved(x, w, stride, padding, rate, groups)
    return out + bias[0].reshape((1,) * (out.ndim - 1) + (-1,)) if bias else out

  run = recomputed(run) if context.recomputes() else run
  return run(x, w) if bias is None else run(x, w, bias)


def _check_size(
  size: Sequence[int], windows: Sequence[int], padding: Sequence[tuple[int, int]]
) -> None:
  """Raises ValueError if a window has no place in a map of this size (which may be empty)."""
  padded = [length + low + high for length, (low, high) in zip(size, padding, strict=True)]
  if any(0 < p < window for p, window in zip(padded, windows, strict=True)):
    over, of = (' x '.join(map(str, lengths)) for lengths in (windows, size))
    raise ValueError(
      f'A kernel that reaches over {over} pixels does not fit into a map of {of}: give larger '
      f'images, a smaller kernel or more padding.'
    )


def _applied(function: Function, x: jax.Array, groups: int) -> jax.Array:
  """Returns function(x), which is to come before a convolution of so many groups.

  Where the convolution has its groups along an axis, an elementwise function sees them so as well,
  and can become a part of the convolution.
  """
  is_elementwise = activations.is_elementwise(function)
  if not (is_elementwise and _is_along_axis(groups, x.shape[-1] // groups)):
    return function(x)
  return function(x.reshape(*x.shape[:-1], groups, -1)).reshape(x.shape)


def _is_along_axis(groups: int, width: int) -> bool:
  """Whether a convolution of groups of so many input channels has them along an axis."""
  return groups > 1 and width >= _WIDE and context.written_for() == 'tpu'


def _convolved(
  x: jax.Array,
  w: jax.Array,
  stride: int | Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  rate: int | Sequence[int],
  groups: int,
) -> jax.Array:
  """Convolves x [N, *spatial, I] with w [*kernel, I / groups, O]."""
  num_spatial_dims = x.ndim - 2
  stride = (stride,) * num_spatial_dims if isinstance(stride, int) else tuple(stride)
  rate = (rate,) * num_spatial_dims if isinstance(rate, int) else tuple(rate)
  windows = grouped.reach(w.shape[:-2], rate)
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(x.shape[1:-1], windows, stride, padding)
  _check_size(x.shape[1:-1], windows, padding)

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
    return grouped.along_axis(x, w, stride, padding, rate, groups)
  if context.written_for() != 'cpu':
    return plain(x, w, groups)
  if groups == x.shape[-1] == w.shape[-1] > 1:
    return grouped.depthwise(x, w, stride, padding, rate)

  def by_group(x, w):
    return dense(x, w) if groups == 1 else grouped.split(x, w, groups, dense)

  window = minimal_filtering.Window(stride, tuple(padding), rate, groups)
  if minimal_filtering.is_chosen(x, w, window):
    return minimal_filtering.convolve(x, w, window, by_group)
  return by_group(x, w)
