"""Sharpness-aware minimisation, Foret et al. (arXiv 2010.01412), as [NFNet] uses it for F6.

A SAM step takes two gradients: `g` at the parameters, and then the one that the optimiser gets, at
`params + rho * g / ||g||`. The norm is over all parameters together.

optax.contrib.sam alternates between two calls with state between them, or calls one gradient
function twice; neither lets the first gradient be of other examples, or of one device alone, so
the step composes `perturb` with its own gradients (`experiments/gradients.py`).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

# A gradient this short has no direction in float32; the parameters then stay where they are.
_SMALLEST_NORM = 1e-30


def perturb(params: Any, grads: Any, rho: float) -> Any:
  """Moves the parameters uphill by a step of length `rho`: `params + rho * g / ||g||`.

  Args:
    params: tree of float arrays.
    grads: tree of the same shapes. Zeros (frozen parameters) stay where they are.
    rho: length of the step, positive ([NFNet] and the paper's ImageNet runs: 0.05).

  Returns:
    A tree like params, in its dtypes; params themselves where all gradients are zero.

  Raises:
    ValueError: if rho is not positive and finite.
  """
  if not (math.isfinite(rho) and rho > 0):
    raise ValueError(
      f"SAM's rho must be a positive finite number, got {rho!r} (published: 0.05); to switch SAM "
      'off, leave the perturbation out.'
    )
  scale = rho / jnp.maximum(optax.global_norm(grads), _SMALLEST_NORM)
  return jax.tree.map(lambda p, g: p + (scale * g).astype(p.dtype), params, grads)
