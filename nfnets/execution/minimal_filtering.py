"""Gradients of the weights of 3x3 convolutions with fewer products.

The gradient of one tap is the sum of products of the inputs and the cotangent, the inputs shifted
by the tap. Over a tile of m outputs, three taps are 3 m products along an axis; m + 2 are enough at
stride 1 (Winograd, "Arithmetic Complexity of Computations", 1980; Lavin and Gray, arXiv 1509.09308,
who call it F(3, m)), and 2 m + 1 at stride 2, where the outer taps see the even inputs and the
inner one the odd inputs. Along two axes this leaves 25 of 81 and 25 of 36 products, as as many
products of matrices, which XLA's CPU backend computes faster than the gradient of a convolution.
The price is rounding: in float32 an error of up to 4e-6 of the largest gradient.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nfnets.execution import context

_TAPS = 3
_ROWS, _COLUMNS = 2, 3  # axes of [G, N, H, W, C]


class _Filtering(NamedTuple):
  """taps = outputs @ ((cotangent @ c) * (inputs @ x)), c of a tile and x what its windows touch."""

  tile: int  # places of the cotangent
  outputs: np.ndarray  # [3, products]
  cotangent: np.ndarray  # [products, tile]
  inputs: np.ndarray  # [products, (tile - 1) * stride + 3]


def _of_points(points: Sequence[float], taps: int, tile: int) -> _Filtering:
  """The algorithm of Toom and Cook, at the given points and at infinity, for stride 1.

  Args:
    points: tile + taps - 2 different numbers.
    taps: of the kernel.
    tile: places of the cotangent.
  """
  products = taps + tile - 1
  points = np.asarray(points, float)

  def powers(count: int) -> np.ndarray:
    """Values of the first powers at the points and, of the last one, at infinity."""
    return np.vstack([points[:, None] ** np.arange(count), np.eye(count)[-1:]])

  # Scaled so that the inputs' matrix has whole numbers.
  scales = [np.prod([a - b for b in points if b != a]) for a in points] + [1.0]
  scales = np.asarray(scales)[:, None]
  inputs = np.linalg.inv(powers(products)).T * scales
  return _Filtering(tile, powers(taps).T, powers(tile) / scales, np.round(inputs, 9))


@functools.cache
def _filtering(stride: int) -> _Filtering:
  """The algorithm for three taps at stride 1 or 2."""
  if stride == 1:
    return _of_points((0, 1, -1, 2), _TAPS, 3)
  # Taps 0 and 2 at the even inputs, where they are neighbours, and tap 1 at the odd ones.
  tile = 2
  even = _of_points((0, -1), 2, tile)
  products = len(even.cotangent) + tile
  outputs, inputs = np.zeros((_TAPS, products)), np.zeros((products, 2 * tile + 1))
  outputs[::2, :-tile] = even.outputs
  outputs[1, -tile:] = 1
  inputs[:-tile, ::2] = even.inputs
  inputs[-tile:, 1::2] = np.eye(tile)
  return _Filtering(tile, outputs, np.vstack([even.cotangent, np.eye(tile)]), inputs)


class Window(NamedTuple):
  """What a convolution sees."""

  stride: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]  # (low, high) of each spatial axis
  rate: tuple[int, ...]
  groups: int


def is_chosen(x: jax.Array, w: jax.Array, window: Window) -> bool:
  """Whether what is traced now filters the gradient of the weights of a convolution.

  Args:
    x: its inputs [N, *spatial, I].
    w: its weights [*kernel, I / groups, O].
    window: all the rest.
  """
  chosen = context.current().minimal_filtering
  is_possible = (
    w.shape[:-2] == (_TAPS, _TAPS)
    and window.stride in ((1, 1), (2, 2))
    and window.rate == (1, 1)
    and x.size > 0
    and w.dtype in (jnp.float32, jnp.float64)  # the transforms lose too much of shorter numbers
  )
  if chosen == 'off' or not is_possible or not context.recomputes():
    return False
  return chosen == 'on' or _is_faster(x.shape, w.shape, window)


def _is_faster(x: tuple[int, ...], w: tuple[int, ...], window: Window) -> bool:
  """Measured for the networks of this library at 192 and 224 pixels, in batches of 8.

  Products grow with the square of the width and sums with the width, so that groups must be wide
  enough; and tiles should not hang over the edges too much. With one example, as for each of a
  private run, the sums over products are too short.
  """
  width_in, width_out = w[2], w[3] // window.groups
  enough = 30 if window.stride == (1, 1) else 40
  tile = _filtering(window.stride[0]).tile
  used = 1.0
  for size, (low, high), stride in zip(x[1:3], window.padding, window.stride, strict=True):
    places = (size + low + high - _TAPS) // stride + 1
    used *= places / (-(-places // tile) * tile)
  is_wide = width_in * width_out / (width_in + width_out) >= enough
  return x[0] > 1 and is_wide and used >= 0.77


def convolve(
  x: jax.Array, w: jax.Array, window: Window, run: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
  """Returns run(x, w), a convolution with such a window, with a filtered gradient of w.

  Reverse mode works, to every order; forward mode does not.
  """
  computed = jax.custom_vjp(lambda x, w: run(x, w))

  def backward(kept, cotangent):
    x, w = kept
    _, pull = jax.vjp(lambda x: run(x, w), x)
    return *pull(cotangent), weight_gradient(x, cotangent, window)

  computed.defvjp(lambda x, w: (run(x, w), (x, w)), backward)
  return computed(x, w)


def weight_gradient(x: jax.Array, cotangent: jax.Array, window: Window) -> jax.Array:
  """Returns the gradient of the weights of a 3x3 convolution.

  Args:
    x: [N, H, W, I] inputs.
    cotangent: [N, h, w, O] of the outputs.
    window: of the convolution, with a stride of 1 or 2 of both axes and a rate of 1.

  Returns:
    [3, 3, I / groups, O].
  """
  (stride, _), padding, _, groups = window
  used = _filtering(stride)
  step = used.tile * stride
  tiles = [-(-size // used.tile) for size in cotangent.shape[1:3]]
  reach = [count * step + _TAPS - stride for count in tiles]
  x = _padded(x, [low for low, _ in padding], reach)
  cotangent = _padded(cotangent, (0, 0), [count * used.tile for count in tiles])
  x, cotangent = _groups_first(x, groups), _groups_first(cotangent, groups)

  def transformed(matrix: np.ndarray, a: jax.Array, step: int) -> list[list[jax.Array]]:
    """By row and column of products, [G, N * tiles, C / G]."""
    rows = [_combined(row, _windows(a, _ROWS, step, tiles[0], matrix)) for row in matrix]
    both = [
      [_combined(row, _windows(a, _COLUMNS, step, tiles[1], matrix)) for row in matrix]
      for a in rows
    ]
    return [[a.reshape(a.shape[0], -1, a.shape[-1]) for a in line] for line in both]

  places = (((1,), (1,)), ((0,), (0,)))
  products = [
    [lax.dot_general(a, c, places) for a, c in zip(*lines, strict=True)]
    for lines in zip(
      transformed(used.inputs, x, step),
      transformed(used.cotangent, cotangent, used.tile),
      strict=True,
    )
  ]
  taps = [  # of rows, for every product of columns
    [_combined(row, column) for column in zip(*products, strict=True)] for row in used.outputs
  ]
  taps = jnp.stack([_combined(row, line) for line in taps for row in used.outputs])
  taps = jnp.moveaxis(taps, 1, 2)  # [9, I / G, G, O / G]
  return taps.reshape(_TAPS, _TAPS, taps.shape[1], -1)


def _padded(x: jax.Array, low: Sequence[int], size: Sequence[int]) -> jax.Array:
  """Pads, or cuts, a map [N, H, W, C] to a size, with so many zeros before its rows and columns."""
  pads = [(a, b - s - a, 0) for a, b, s in zip(low, size, x.shape[1:3], strict=True)]
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *pads, (0, 0, 0)])


def _groups_first(x: jax.Array, groups: int) -> jax.Array:
  """[N, H, W, C] to [G, N, H, W, C / G]."""
  return jnp.stack(jnp.split(x, groups, -1))


def _windows(x: jax.Array, axis: int, step: int, count: int, matrix: np.ndarray) -> list[jax.Array]:
  """What comes first, second and so on in each of `count` windows, `step` places apart."""
  last = (count - 1) * step + 1
  return [lax.slice_in_dim(x, k, k + last, step, axis) for k in range(matrix.shape[1])]


def _combined(factors: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
  """The sum of arrays times factors, which are mostly 0 and 1."""
  terms = [
    a if f == 1 else -a if f == -1 else a * a.dtype.type(f)
    for f, a in zip(factors, arrays, strict=True)
    if f
  ]
  return functools.reduce(jnp.add, terms)
