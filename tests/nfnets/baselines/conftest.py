"""What the tests of the baselines share."""

import functools

import jax
import pytest


@pytest.fixture(scope='session')
def jit():
  """`jax.jit` that compiles fast and not well: most of these tests' time is compilation."""
  return functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
