"""Multiply-adds against the published ones and counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from nfnets import execution, flops


def test_f0_has_the_published_count():
  assert flops.model_multiply_adds('F0', 256) / 1e9 == pytest.approx(12.38, abs=0.005)


def test_grouped_convolutions_products_and_loops_by_hand():
  x = jax.ShapeDtypeStruct((2, 8, 8, 12), jnp.float32)
  w = jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)  # 3 groups
  convolution = 2 * 4 * 4 * 6 * 3 * 3 * 4

  def convolve(x, w):
    return execution.convolve(x, w, stride=2, groups=3)

  assert flops.count_multiply_adds(convolve, x, w) == convolution
  assert flops.count_multiply_adds(jax.jit(convolve), x, w) == convolution

  def repeated(a, b):
    return jax.lax.scan(lambda c, _: (c @ b, None), a, None, length=5)[0]

  square = jax.ShapeDtypeStruct((7, 7), jnp.float32)
  assert flops.count_multiply_adds(repeated, square, square) == 5 * 7**3


def test_a_function_that_jit_has_traced_counts_the_same():
  x, w = jnp.ones((2, 8, 8, 9)), jnp.ones((3, 3, 3, 6))  # groups of 3: computed 9 at a time on CPUs
  convolve = jax.jit(lambda x, w: execution.convolve(x, w, groups=3))
  fresh = flops.count_multiply_adds(convolve, x, w)
  with execution.strategy('cpu'):
    convolve(x, w)
  assert flops.count_multiply_adds(convolve, x, w) == fresh == 2 * 8 * 8 * 6 * 3 * 3 * 3
