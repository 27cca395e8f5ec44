"""Computing again for the gradient, on a CPU, what would otherwise be kept for it.

`jax.checkpoint` asks for the same with barriers, but XLA's CPU backend drops them before it merges
common subexpressions: everything is kept after all, and what the gradient needs in another layout
is even made, and held, while the forward pass runs. Here the second computation depends on the
cotangent, so that it can neither be merged with the first nor begin before the backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Returns function(x, *args), of which only x and args are kept for the gradient.

  Values and gradients are those of `function`. There is a reverse mode, also of gradients, but no
  forward mode.

  Args:
    function: pure, of arrays: whatever it uses must be an argument, to be differentiated, or no
      array. x is floating-point.
  """

  def forward(x, *args):
    return function(x, *args), (x, args)

  def backward(kept, cotangent):
    x, args = kept
    _, pull = jax.vjp(function, after(x, cotangent), *args)
    return pull(cotangent)

  computed = jax.custom_vjp(lambda *args: function(*args))
  computed.defvjp(forward, backward)
  return computed


def after(x: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Returns x, by way of a factor 1 that no compiler can know before the cotangent is there."""
  first = jnp.ravel(cotangent)[0]
  return x * jnp.where(first > jnp.inf, 2, 1).astype(x.dtype)
