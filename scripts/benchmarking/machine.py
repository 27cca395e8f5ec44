"""What a measurement ran on."""

import os
import pathlib
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from nfnets.onnx_session import usable_cores

# Variables that change speed; those that are set are noted.
_VARIABLES = (
  'XLA_FLAGS', 'JAX_PLATFORMS', 'JAX_DEFAULT_MATMUL_PRECISION', 'JAX_ENABLE_X64',
  'XLA_PYTHON_CLIENT_PREALLOCATE', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS',
  'CUDA_VISIBLE_DEVICES', 'LD_PRELOAD',
)  # fmt: skip


def describe() -> dict[str, Any]:
  """Returns processor, cores, memory, system and the variables that change speed."""
  return {
    'processor': processor(),
    'cores': os.cpu_count(),
    'usable_cores': usable_cores(),
    'memory_bytes': _memory(),
    'system': f'{platform.system()} {platform.machine()}',
    'variables': {name: os.environ[name] for name in _VARIABLES if name in os.environ},
  }


def processor() -> str:
  """The processor's name."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace')
  except OSError:
    text = ''
  found = re.search(r'^model name\s*: (.*)$', text, re.MULTILINE)
  return found[1] if found else platform.processor() or platform.machine()


def _memory() -> int | None:
  try:
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, OSError, ValueError):
    return None


def command(argv: Sequence[str]) -> str:
  """The command as it can be repeated elsewhere: of paths only the last part."""
  shown = [re.sub(r'[^\s=]*/(?=.)', '', argument) for argument in argv]
  return shlex.join(['nfnets', 'benchmark', *shown])


def sentence(results: Mapping[str, Any]) -> str:
  """Where and with what the results were measured, and the ceilings."""
  machine, versions = results['machine'], results['versions']
  where = f'{machine["processor"]}, {machine["usable_cores"]} cores'
  if machine.get('platform of jax') not in (None, 'cpu'):
    where = f'{machine["device of jax"]}, one device'
  which = ', '.join(
    f'{name} {versions[name]}'
    for name in ('jax', 'onnxruntime', 'openvino', 'torch', 'timm')
    if name in versions
  )
  clock = ', processor time' if results['settings'].get('processor_time') else ''
  threads = machine.get('threads of torch')
  ceilings = ', '.join(
    f'{one["flops_per_second"] / 1e9:.0f} GFLOP/s ({name})'
    for name, one in results['ceiling'].items()
  )
  return (
    f'{where}; {which}' + (f' ({threads} threads)' if threads else '')
    + f'; {results["settings"]["dtype"]}, {results["settings"]["rounds"]} rounds{clock}; '
    f'matrix products reach {ceilings}.'
  )  # fmt: skip
