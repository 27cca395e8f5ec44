"""Counts the multiply-adds of a function from its traced program."""

import math
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.extend import core

from nfnets import execution, zoo
from nfnets.sides import Sides


def count_multiply_adds(function: Callable[..., Any], *args: Any) -> int:
  """Returns how many multiply-adds the convolutions and matrix products of a function take.

  This is mostly what papers call the FLOPs of an image network; the number of floating-point
  operations is twice as large. Window positions over padding count, as usual; elementwise work does
  not.

  Args:
    function: any traceable function.
    *args: its arguments, trees of arrays or of `jax.ShapeDtypeStruct`; nothing is computed.
  """
  # No rewriting for a backend: what the network needs, whatever is computed beside it.
  with execution.strategy('plain', space_to_depth='off'):
    program = jax.make_jaxpr(function)(*args)
  return _count(program.jaxpr)


def model_multiply_adds(name: str | zoo.AnySpec, size: Sides, num_classes: int = 1000) -> int:
  """Returns the multiply-adds of a model on one image.

  Args:
    name: a name of `nfnets.list_models()`, or a spec.
    size: height and width of the image, in pixels: one number, or both.
    num_classes: number of logits.

  Raises:
    ValueError: there is no such model.
  """
  network = hk.transform_with_state(
    lambda images: zoo.create_model(name, num_classes)(images, is_training=False)['logits']
  )
  images = jax.ShapeDtypeStruct((1, *zoo.input_shape(zoo.get_spec(name), size)), jnp.float32)
  params, state = jax.eval_shape(network.init, jax.random.key(0), images)
  return count_multiply_adds(network.apply, params, state, None, images)


def _count(jaxpr: core.Jaxpr) -> int:
  total = 0
  for equation in jaxpr.eqns:
    out = equation.outvars[0].aval if equation.outvars else None
    kind = equation.primitive.name
    if kind == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      outputs = equation.params['dimension_numbers'].rhs_spec[0]  # the kernel's output axis
      # The gradient by the input of a strided convolution: zeros between the inputs do not count.
      inserted = math.prod(equation.params['lhs_dilation'])
      total += math.prod(out.shape) * math.prod(kernel) // kernel[outputs] // inserted
    elif kind == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      shape = equation.invars[0].aval.shape
      total += math.prod(out.shape) * math.prod(shape[axis] for axis in contracted)
    else:
      repeats = equation.params.get('length', 1) if kind == 'scan' else 1
      total += repeats * sum(_count(inner) for inner in _inner(equation.params))
  return total


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The programs inside an equation, such as those of jit and scan."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      item = getattr(item, 'jaxpr', item)
      if isinstance(item, core.Jaxpr):
        found.append(item)
  return found
