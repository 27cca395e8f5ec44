"""Activation statistics of any Haiku network; the network carries no code for it."""

from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp


def average_squared_mean(x: jax.Array) -> jax.Array:
  """Mean over channels of the squared channel mean of x [N, H, W, C] ([SigProp] section 3)."""
  return jnp.mean(jnp.square(jnp.mean(x, axis=tuple(range(x.ndim - 1)))))


def average_variance(x: jax.Array) -> jax.Array:
  """Mean over channels of the channel variance of x [N, H, W, C] ([SigProp] section 3)."""
  return jnp.mean(jnp.var(x, axis=tuple(range(x.ndim - 1))))


def measure(
  network: Callable[..., Any],
  params: Mapping[str, Mapping[str, jax.Array]],
  *args: Any,
  methods: tuple[str, ...] = ('stem', 'residual', '__call__'),
  rng: jax.Array | None = None,
) -> tuple[dict[str, dict[str, jax.Array]], Any]:
  """Runs a network once and measures what its modules' methods returned.

  Args:
    network: a function that builds and calls Haiku modules, as given to `hk.transform`.
    params: its parameters.
    *args: what to call it with.
    methods: the methods whose outputs are measured, where they are arrays of rank 4.
    rng: key, for networks that draw random numbers.

  Returns:
    The statistics, '<module path>.<method>' in order of execution -> {'average_squared_mean',
    'average_variance'}, float32 scalars, `__call__` being written as the module path alone; and
    what the network returned.
  """

  @jax.jit
  def run(params, *args):
    statistics = {}

    def record(next_fun, args, kwargs, context):
      out = next_fun(*args, **kwargs)
      if context.method_name in methods and hasattr(out, 'ndim') and out.ndim == 4:
        path = context.module.module_name
        path += '' if context.method_name == '__call__' else f'.{context.method_name}'
        wide = out.astype(jnp.float32)
        statistics[path] = {
          'average_squared_mean': average_squared_mean(wide),
          'average_variance': average_variance(wide),
        }
      return out

    with hk.intercept_methods(record):
      out = hk.transform(network).apply(params, rng, *args)
    order.extend(statistics)  # jit returns dictionaries sorted by key
    return statistics, out

  order: list[str] = []
  statistics, out = run(params, *args)
  return {path: statistics[path] for path in order}, out
