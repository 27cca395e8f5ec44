"""The units of adaptive gradient clipping, and their norms.

[NFNet] (arXiv 2102.06171) section 4.1 clips by units: the rows of its matrices and the output
channels of its convolutions.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from nfnets.optim import trees

# (path of the array, its shape) -> the axes that one norm sums over.
UnitRule = Callable[[str, tuple[int, ...]], tuple[int, ...]]


def unit_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
  """The axes that one norm sums over in the published rule; the others count the units.

  Scalars, vectors and arrays with at most one axis longer than 1: all axes. 2-D `[in, out]` and
  3-D (multi-head linear): axis 0. 4-D `[H, W, in, out]` and 5-D `[D, H, W, in, out]`: all but the
  last. These are the rules of `optax.adaptive_grad_clip`.

  A 3-D array is read as `[in, heads, out]`, so a 1-D convolution `[W, in, out]` is clipped per
  (in, out) pair, more finely than per output; `per_output` clips it per output.

  Raises:
    ValueError: for more than five axes.
  """
  if sum(size != 1 for size in shape) <= 1:
    return tuple(range(len(shape)))
  if len(shape) in (2, 3):
    return (0,)
  if len(shape) in (4, 5):
    return tuple(range(len(shape) - 1))
  raise ValueError(
    f'adaptive gradient clipping has no rule for a parameter of shape {shape}; it knows up to 5 '
    f'axes, so reshape the parameter, pass a unit_rule or keep it out of the clipping with a mask.'
  )


def per_output(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The rule that each output is one unit, for convolutions of every rank.

  Scalars and vectors are one unit, as in the published rule; in other arrays, whose last axis
  counts the outputs, each output is one unit. Besides 1-D convolutions, this differs from the
  published rule for arrays `[1, out]` and `[1, 1, 1, out]`, which are one unit there, and for
  multi-head linear layers `[in, heads, out]`, whose heads are taken together.

  Args:
    path: the parameter's path; not used.
    shape: the parameter's shape.

  Returns:
    The axes that one norm sums over.
  """
  return tuple(range(len(shape) if len(shape) <= 1 else len(shape) - 1))


class Units:
  """Gradients and the parameters that they belong to, divided into units.

  grads, params: lists of arrays in one order; where a gradient was left out, both are holes.
  axes: those that a norm sums over, for each array.
  """

  def __init__(self, grads: Any, params: Any, rule: UnitRule | None):
    self.grads, self.params, self.structure = trees.pair(grads, params, ('gradients', 'parameters'))
    self.axes: list[tuple[int, ...]] = [()] * len(self.grads)
    self._together: dict[tuple, list[int]] = {}
    paths = trees.leaf_paths(grads, is_leaf=trees.is_hole)
    for place, (grad, param, path) in enumerate(zip(self.grads, self.params, paths, strict=True)):
      if trees.is_hole(grad):
        continue
      shape = jnp.shape(grad)
      if shape != jnp.shape(param):
        raise ValueError(
          f'gradients and parameters must have equal shapes, but at {path!r} they are {shape} and '
          f'{jnp.shape(param)}; pass the parameters that the gradients belong to.'
        )
      axes = self.axes[place] = unit_axes(shape) if rule is None else _axes_by(rule, path, shape)
      alone = len(axes) < len(shape)
      self._together.setdefault((place,) if alone else ('one', *shape), []).append(place)

  def norms_and_limits(
    self, clipping: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
  ) -> Iterator[tuple[list[int], jax.Array, jax.Array]]:
    """Yields (places of arrays, norms of their gradients' units, clipping * max(||w||, eps)).

    Arrays of one shape that are one unit each (gains, biases, scalars) come together, as vectors
    [number of arrays]: hundreds of single numbers would each be an operation of their own. The
    others come alone, the summed axes kept.
    """
    for places in self._together.values():
      limits = clipping * jnp.maximum(self._norms(self.params, places), eps)
      yield places, self._norms(self.grads, places), limits

  def _norms(self, arrays: list[Any], places: list[int]) -> jax.Array:
    if len(places) == 1:
      return jnp.sqrt(squares(arrays[places[0]], self.axes[places[0]]))
    stacked = jnp.stack([jnp.ravel(widened(arrays[place])) for place in places])
    return jnp.sqrt(jnp.sum(jnp.square(stacked), axis=1))

  def count(self, place: int) -> int:
    """How many units an array has."""
    shape = jnp.shape(self.grads[place])
    return math.prod(shape) // max(math.prod(shape[axis] for axis in self.axes[place]), 1)


def squares(x: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
  """The squared norm of each unit of an array, the summed axes kept; None: the published units."""
  axes = unit_axes(jnp.shape(x)) if axes is None else axes
  return jnp.sum(jnp.square(widened(x)), axis=axes, keepdims=True)


def widened(x: jax.Array) -> jax.Array:
  """Converts to at least float32, since squares in float16 end at 65504."""
  x = jnp.asarray(x)
  return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _axes_by(rule: UnitRule, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The axes that a caller's rule returns, checked."""
  axes = rule(path, shape)
  valid = isinstance(axes, tuple) and set(axes) <= set(range(len(shape)))
  if not valid or len(set(axes)) < len(axes):
    raise ValueError(
      f'the unit_rule gave {axes!r} for {path!r} of shape {shape}; expected a tuple of the axes '
      f'that one norm sums over, among {tuple(range(len(shape)))}.'
    )
  return axes
