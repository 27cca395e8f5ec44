"""What to install: the command that adds an extra to this installation, and the build for a GPU.

Uses only the standard library: scripts/setup.sh runs it before anything is installed.
"""

import os
import pathlib
import shlex
import subprocess
import sys

_ROOT = pathlib.Path(__file__).parents[1]
_CUDA_13 = (580, 7.5)  # the least driver and compute capability, as JAX's page on installing says


def command(extra: str) -> str:
  """Returns the shell command that adds an extra of setup.py to this installation.

  Args:
    extra: its name, such as 'onnx'.

  Returns:
    For example `.venv/bin/pip install -e '.[onnx]'` in a checkout, `pip install 'nfnets[onnx]'`
    where the library is installed. The command works in the current folder.
  """
  if (_ROOT / 'setup.py').is_file():
    return f'{_pip()} install -e {shlex.quote(f"{_shown(_ROOT)}[{extra}]")}'
  return f'{_pip()} install {shlex.quote(f"nfnets[{extra}]")}'


def gpu_extra() -> str | None:
  """Returns the extra with the JAX for this machine's NVIDIA GPUs; None if nvidia-smi names none.

  'gpu' has CUDA 13, and 'gpu12' CUDA 12, for older drivers and GPUs.
  """
  query = ['nvidia-smi', '--query-gpu=driver_version,compute_cap', '--format=csv,noheader']
  try:
    said = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    gpus = [line.split(',') for line in said.splitlines() if line.strip()]
    found = [(int(driver.split('.')[0]), float(capability)) for driver, capability in gpus]
  except (OSError, ValueError, subprocess.SubprocessError):
    return None
  if not found:
    return None
  driver, capability = (min(values) for values in zip(*found, strict=True))
  return 'gpu' if driver >= _CUDA_13[0] and capability >= _CUDA_13[1] else 'gpu12'


def _pip() -> str:
  """This environment's pip, by its path if it is not the one that the user's shell finds."""
  own = pathlib.Path(sys.executable).with_name('pip')
  if sys.prefix in (sys.base_prefix, os.environ.get('VIRTUAL_ENV')) or not own.exists():
    return 'pip'
  return shlex.quote(_shown(own))


def _shown(path: pathlib.Path) -> str:
  """A path as you would type it here."""
  here = pathlib.Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)
