"""The hardware that JAX_PLATFORMS asks for, and one sentence where it is not there."""

import contextlib
from collections.abc import Iterator

import jax

from experiments.runtime.errors import ConfigError


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Inside, JAX's errors for hardware that is not there become one sentence. Also a decorator.

  JAX looks at the hardware when it is first used, and not before: looking for it here would come
  before a run of several processes has found its partners.

  Raises:
    ConfigError: JAX_PLATFORMS asks for hardware that JAX does not find.
  """
  try:
    yield
  except (AssertionError, RuntimeError):  # of 'cuda' and of any other name
    asked = jax.config.jax_platforms
    if not asked or _is_there():
      raise
    jax.config.update('jax_platforms', '')  # this program ends anyway
    found = jax.default_backend()
    raise ConfigError(
      f'JAX_PLATFORMS={asked} asks for hardware that JAX does not find; it finds {found!r}: leave '
      f'the variable out or set JAX_PLATFORMS={found}, or install JAX for that hardware, such as '
      "pip install 'jax[cuda12]'."
    ) from None


def _is_there() -> bool:
  try:
    jax.devices()
  except (AssertionError, RuntimeError):
    return False
  return True
