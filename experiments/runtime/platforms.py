"""The hardware that JAX runs on, and a sentence where it is not what was asked for, or not all."""

import contextlib
import logging
import sys
from collections.abc import Iterator

import jax

from experiments.runtime.errors import ConfigError
from nfnets import installation

# Says that an accelerator is left unused, once, when JAX has looked at the hardware.
_OF_JAX = logging.getLogger('jax._src.xla_bridge')
_LEFT_UNUSED = (
  ('NVIDIA GPU may be present', 'an NVIDIA GPU', lambda: installation.gpu_extra() or 'gpu'),
  ('Google TPU may be present', 'a TPU', lambda: 'tpu'),
)


@contextlib.contextmanager
def explained() -> Iterator[None]:
  """Inside, JAX's errors for hardware that is not there become one sentence. Also a decorator.

  Where JAX leaves an accelerator unused because its build is for CPUs, a line says what to install,
  whatever the level of the log is.

  JAX looks at the hardware when it is first used, and not before: looking for it here would come
  before a run of several processes has found its partners.

  Raises:
    ConfigError: JAX_PLATFORMS asks for hardware that JAX does not find.
  """
  _OF_JAX.setLevel(logging.WARNING)
  _OF_JAX.addFilter(_in_own_words)
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
      f'{installation.command(_extra_for(asked))}.'
    ) from None


def warn_of_dtype(dtype: str) -> None:
  """Warns, in the log, where GPUs have no arithmetic of the dtype that a run computes in.

  Args:
    dtype: a name, such as 'bfloat16', which begins with compute capability 8.0.
  """
  if dtype != 'bfloat16':
    return
  for device in jax.local_devices():
    if device.platform == 'gpu' and float(getattr(device, 'compute_capability', 8.0)) < 8.0:
      logging.warning(
        '%s',
        f'{device.device_kind} has no arithmetic in bfloat16 (compute capability '
        f'{device.compute_capability}, from 8.0 on): it is slower there than float32. Set '
        '--config.compute_dtype=float32.',
      )
      return


def _in_own_words(record: logging.LogRecord) -> bool:
  """A filter of JAX's log: replaces its warnings about unused accelerators."""
  for words, accelerator, extra in _LEFT_UNUSED:
    if words in record.getMessage():
      print(
        f'JAX runs on the CPU of this machine, which has {accelerator} as well. To use it: '
        f'{installation.command(extra())}',
        file=sys.stderr,
        flush=True,
      )
      return False
  return True


def _extra_for(platform: str) -> str:
  return 'tpu' if platform.startswith('tpu') else installation.gpu_extra() or 'gpu'


def _is_there() -> bool:
  try:
    jax.devices()
  except (AssertionError, RuntimeError):
    return False
  return True
