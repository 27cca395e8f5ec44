"""Scaled weight standardisation ([SigProp], arXiv 2101.08692, equation 2) and its derivative.

The derivative is written out: its transpose reads the weights and the cotangent once for both of
its sums, where automatic differentiation of mean and variance goes over them three times.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from nfnets.execution import context
from nfnets.execution.recompute import after


def standardize(
  w: jax.Array,
  gain: jax.Array,
  *,
  fan_in: int | None = None,
  epsilon: float = 1e-4,
  epsilon_added_to_variance: bool = False,
) -> jax.Array:
  """Scaled weight standardisation, [SigProp] equation 2: zero mean, variance 1 / fan_in, a gain.

  Args:
    w: [..., I, O] weights; an output channel's statistics run over all axes but the last.
    gain: [O] multiplier of each output channel.
    fan_in: number of weights of one output channel; None: from the shape.
    epsilon: keeps a constant filter from being divided by zero.
    epsilon_added_to_variance: the divisor is sqrt(fan_in * (var + epsilon)) instead of
      sqrt(max(fan_in * var, epsilon)).

  Returns:
    Weights of w's shape and dtype. The statistics are taken in float32 at least.
  """
  fan_in = fan_in or math.prod(w.shape[:-1])
  # Of what is computed again, w and its statistics are kept, but not the centred weights as well.
  run = _standardize_recomputed if context.recomputes() else _standardize
  # One axis to sum over: XLA's CPU backend is 10 times slower at sums over (1, 1, I).
  flat = w.reshape(-1, w.shape[-1])
  settings = (fan_in, epsilon, epsilon_added_to_variance)
  return run(flat, gain.reshape(1, -1), settings).reshape(w.shape)


class _Statistics(NamedTuple):
  """Of the output channels of weights [N, O]; each [1, O], float32 at least."""

  mean: jax.Array
  scale: jax.Array  # of the centred weights, without gain
  slope: jax.Array  # how scale moves with mean(centred * d centred)


_Settings = tuple[int, float, bool]  # fan_in, epsilon, epsilon_added_to_variance


# Forward, so that both modes and higher orders follow from it.
@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _standardize(w: jax.Array, gain: jax.Array, settings: _Settings) -> jax.Array:
  """Standardises w [N, O] with a gain [1, O]."""
  return _values(w, gain, settings)[0]


@_standardize.defjvp
def _standardize_jvp(settings: _Settings, primals: Any, tangents: Any) -> tuple[Any, Any]:
  w, gain = primals
  out, centred, statistics = _values(w, gain, settings)
  return out, _derivative(centred, statistics, gain, *tangents).astype(w.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _standardize_recomputed(w: jax.Array, gain: jax.Array, settings: _Settings) -> jax.Array:
  return _values(w, gain, settings)[0]


def _forward(w: jax.Array, gain: jax.Array, settings: _Settings) -> tuple[jax.Array, Any]:
  out, _, statistics = _values(w, gain, settings)
  return out, (w, gain, statistics)


def _backward(settings: _Settings, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
  del settings
  w, gain, statistics = kept
  centred = after(w, cotangent).astype(statistics.mean.dtype) - statistics.mean
  derivative = functools.partial(_derivative, centred, statistics, gain)
  transposed = jax.linear_transpose(derivative, w, gain)
  return transposed(cotangent.astype(centred.dtype))


_standardize_recomputed.defvjp(_forward, _backward)


def _values(
  w: jax.Array, gain: jax.Array, settings: _Settings
) -> tuple[jax.Array, jax.Array, _Statistics]:
  """Returns the standardised weights [N, O], w - mean in float32 at least, and the statistics."""
  fan_in, epsilon, epsilon_added_to_variance = settings
  wide = w.astype(jnp.promote_types(w.dtype, jnp.float32))
  # Two passes: E[w^2] - E[w]^2 would lose the digits of a mean far above the standard deviation.
  mean = jnp.mean(wide, axis=0, keepdims=True)
  centred = wide - mean
  variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
  if epsilon_added_to_variance:
    scale, is_live = lax.rsqrt(fan_in * (variance + epsilon)), True
  else:
    scale = lax.rsqrt(jnp.maximum(variance * fan_in, epsilon))
    is_live = variance * fan_in > epsilon
  # scale = (fan_in * variance)^(-1/2), so d scale = -fan_in * scale^3 * mean(centred * d centred).
  slope = jnp.where(is_live, -fan_in * scale**3, 0.0)
  out = (centred * (scale * gain.astype(scale.dtype))).astype(w.dtype)
  return out, centred, _Statistics(mean, scale, slope)


def _derivative(
  centred: jax.Array,
  statistics: _Statistics,
  gain: jax.Array,
  w_dot: jax.Array,
  gain_dot: jax.Array,
) -> jax.Array:
  """Returns how the standardised weights move: linear in w_dot [N, O] and gain_dot [1, O]."""
  _, scale, slope = statistics
  gain, w_dot, gain_dot = (x.astype(scale.dtype) for x in (gain, w_dot, gain_dot))
  moved = w_dot - jnp.mean(w_dot, axis=0, keepdims=True)
  along = jnp.mean(centred * w_dot, axis=0, keepdims=True)
  return scale * gain * moved + centred * (gain * slope * along + scale * gain_dot)
