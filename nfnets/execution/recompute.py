"""On a CPU, recomputes for the gradient what would otherwise be kept for it.

`jax.checkpoint` asks for the same with barriers, but XLA's CPU backend drops them before it merges
common subexpressions: everything is kept after all, and what the gradient needs in another layout
is even computed and held during the forward pass. Here the second computation depends on the
cotangent, so that it can neither be merged with the first nor begin before the backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nfnets.execution import context


def recomputed(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Returns function(x, *args), of which only x and args are kept for the gradient.

  Values and gradients are those of `function`. Reverse mode works, also for gradients of gradients;
  forward mode does not. The second computation uses the strategy of the first one.

  Args:
    function: pure, of arrays: whatever it uses must be an argument, to be differentiated, or no
      array. x is floating-point.
  """
  chosen = context.current()

  def run(*args):
    with context.using(chosen):
      return function(*args)

  def forward(x, *args):
    return run(x, *args), (x, args)

  def backward(kept, cotangent):
    x, args = kept
    _, pull = jax.vjp(run, after(x, cotangent), *args)
    return pull(cotangent)

  computed = jax.custom_vjp(lambda *args: run(*args))
  computed.defvjp(forward, backward)
  return computed


def after(x: jax.Array, cotangent: jax.Array) -> jax.Array:
  """Returns x, by way of a factor 1 that no compiler can know before the cotangent is there."""
  if not cotangent.size:  # of an empty batch
    return x
  first = jnp.ravel(cotangent)[0]
  return x * jnp.where(first > jnp.inf, 2, 1).astype(x.dtype)
