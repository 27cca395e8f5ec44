"""State dicts of PyTorch, read as numpy arrays without the prefixes of wrappers."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfnets.weights import formats

_LOG = logging.getLogger(__name__)


def read(weights: str | os.PathLike | Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Reads a state dict: a safetensors file, or names -> arrays or CPU tensors.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not a state dict, or contains NaN or infinite numbers.
  """
  if not isinstance(weights, Mapping):
    return formats.read_safetensors(weights)[1]
  state = {}
  for key, value in weights.items():
    if isinstance(value, Mapping):
      raise ValueError(
        f'weights[{key!r}] is a mapping itself, so this is a checkpoint and not a state dict: pass '
        f"the state dict in it, often weights['state_dict'] or weights['model']."
      )
    try:
      state[key] = np.asarray(value)
    except (TypeError, RuntimeError) as error:  # of a device, with a gradient, or in bfloat16
      raise ValueError(
        f'{key} cannot become a numpy array ({error}): pass tensor.detach().float().cpu().'
      ) from None
    if state[key].dtype.kind in 'OSUMm':
      raise ValueError(f'{key} is a {type(value).__name__}, not an array: leave it out.')
  formats.check_finite(state, 'the state dict')
  return state


def without_prefix(state: dict[str, np.ndarray], first: str) -> dict[str, np.ndarray]:
  """Removes the prefix that wrappers add to all names, and warns.

  Args:
    state: the state dict.
    first: the model's first name, which shows the prefix.

  Raises:
    ValueError: some names have another prefix, or none.
  """
  if first in state:
    return state
  prefixes = [key.removesuffix(first) for key in state if key.endswith(f'.{first}')]
  if not prefixes:
    return state  # the merge tells what the file holds instead
  prefix = prefixes[0]
  others = [key for key in state if not key.startswith(prefix)]
  if others or len(prefixes) > 1:
    raise ValueError(
      f'{len(state) - len(others)} of {len(state)} names begin with {prefix!r}, and others do not '
      f'or belong to a second network ({_some([*prefixes[1:], *others])}): pass a state dict of '
      f'one network alone.'
    )
  _LOG.warning('the prefix %r of all names is left out', prefix)
  return {key.removeprefix(prefix): array for key, array in state.items()}


def _some(names: Sequence[str]) -> str:
  return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
