"""Sharpness-aware minimisation, Foret et al. (arXiv 2010.01412), as [NFNet] uses it for F6.

A SAM step computes two gradients: `g` at the parameters, and then, at `params + rho * g / ||g||`,
the one that the optimiser gets. The norm is over all parameters together.

optax.contrib.sam alternates between two calls with state between them, or calls one gradient
function twice; neither allows the first gradient to come from other examples, or from one device
alone, so the step composes `perturb` with its own gradients (`experiments/training/gradients.py`).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets.optim import hyperparameters, trees
from nfnets.optim.units import widened


def perturb(params: Any, grads: Any, rho: jax.typing.ArrayLike) -> Any:
  """Moves the parameters uphill by a step of length `rho`: `params + rho * g / ||g||`.

  The step has this length for every norm, from the smallest float32 number to the largest.

  Args:
    params: tree of float arrays.
    grads: tree of the same structure, of arrays of the same shapes. Zeros (frozen parameters) stay
      where they are, and so do the parameters where grads has None or optax.MaskedNode.
    rho: length of the step, positive ([NFNet] and the paper's ImageNet runs: 0.05); may be traced.

  Returns:
    A tree like params, in its dtypes; params themselves where all gradients are exactly zero.

  Raises:
    ValueError: if rho is not positive and finite, or the trees have different structures.
  """
  if not hyperparameters.passes(rho, lambda x: 0 < x < math.inf):
    raise ValueError(
      f"SAM's rho must be a positive finite number, got {rho!r} (published: 0.05); to switch SAM "
      'off, leave the perturbation out.'
    )
  leaves, moved, structure = trees.pair(grads, params, ('gradients', 'parameters'))
  places = [place for place, leaf in enumerate(leaves) if not trees.is_hole(leaf)]
  if not places:
    return params
  directions = _near_one([leaves[place] for place in places])
  norm = optax.global_norm(directions)
  scale = rho / jnp.where(norm == 0, 1.0, norm)
  for place, direction in zip(places, directions, strict=True):
    param = jnp.asarray(moved[place])
    moved[place] = param + (scale * direction).astype(param.dtype)
  return jax.tree.unflatten(structure, moved)


def _near_one(arrays: list[jax.Array]) -> list[jax.Array]:
  """Multiplies all arrays by one power of 2, so that the largest number is about 1.

  The products are exact, and so is the direction. float32 can represent the squares of numbers near
  1, but not those of 1e-21 and 1e21. Processors treat subnormal numbers (below 1.2e-38) as zeros,
  but not the integers with the same bits.
  """
  arrays = [widened(x) for x in arrays]
  dtype = jnp.result_type(*arrays)
  info = jnp.finfo(dtype)
  integer = np.dtype(f'int{info.bits}')
  lowest, bias = int(info.minexp), int(info.maxexp) - 1

  def power_of_two(exponent: jax.Array) -> jax.Array:
    """2**exponent, or 0 if that is too small."""
    bits = jnp.where(exponent < lowest, 0, exponent + bias) << info.nmant
    return jax.lax.bitcast_convert_type(bits, dtype)

  arrays = [x.astype(dtype) for x in arrays]
  signed = [jax.lax.bitcast_convert_type(x, integer) for x in arrays]
  # Without the sign, the bits of floats are in the order of the numbers.
  magnitudes = [bits & np.array(np.iinfo(integer).max, integer) for bits in signed]
  largest = jnp.max(jnp.stack([jnp.max(bits, initial=0) for bits in magnitudes]))
  exponent = jnp.clip((largest >> info.nmant) - bias, lowest, -lowest)
  factor = power_of_two(-exponent)
  # Of a number without a leading one, the bits count the smallest number, 2**(lowest - nmant).
  smallest = power_of_two(lowest - exponent) * 2.0**-info.nmant
  multiplied = []
  for x, bits, magnitude in zip(arrays, signed, magnitudes, strict=True):
    tiny = jnp.where(bits < 0, -smallest, smallest) * magnitude.astype(dtype)
    multiplied.append(jnp.where(magnitude >> info.nmant == 0, tiny, x * factor))
  return multiplied
