"""Where a run starts from when it does not start from nothing: a file of weights and its model."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runtime import local_paths
from experiments.runtime.errors import ConfigError
from nfnets import baselines, list_models, optim, weights, zoo


def find_spec(name: str) -> zoo.AnySpec | None:
  """Returns the model that weights are for, without reading arrays where that can be avoided.

  Args:
    name: a name that `nfnets.load_pretrained` knows, or the path of a file.

  Returns:
    The spec; None for a safetensors file of this library that was saved without one.

  Raises:
    ValueError: no such name or file, or the file cannot be read.
  """
  path = local_paths.require(name, 'weights')
  if path.is_file():
    if weights.is_safetensors(path):
      stored = weights.read_metadata(path).get('spec')
      return None if stored is None else zoo.spec_from_dict(stored)
  elif name in list_models():
    return zoo.get_spec(name)
  return weights.load_pretrained(name).spec


def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters and, of a baseline with batch normalisation, the running statistics.

  Raises:
    ConnectionError: published weights cannot be downloaded.
    ValueError: no such name or file, or the file cannot be read.
  """
  path = pathlib.Path(name)
  if path.is_file() and weights.is_safetensors(path):
    return baselines.split_state(weights.load(path)[0])
  return weights.load_pretrained(name).params, {}


def start_from(
  name: str, params: Mapping[str, Any], network_state: Mapping[str, Any], *, new_head: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Puts loaded weights in the place of fresh ones, strictly: every array, in its shape.

  Args:
    name: as in `load`.
    params: the network's fresh parameters.
    network_state: its fresh state.
    new_head: keep the fresh classifier, whatever the weights' own is.

  Returns:
    Parameters and state as numpy arrays.

  Raises:
    ConfigError: the weights are for another number of classes, and their head is to be kept.
    ValueError: the weights do not fit; what `load` raises.
  """
  loaded, loaded_state = load(name)
  head = optim.find_classifier(params)
  if new_head:
    loaded = {**loaded, head: params[head]}
  elif np.size(loaded.get(head, {}).get('b', ())) != np.size(params[head]['b']):
    raise ConfigError(
      f'{name} knows {np.size(loaded.get(head, {}).get("b", ()))} classes and the run has '
      f'{np.size(params[head]["b"])}: set finetune.new_head=True for a new classifier.'
    )
  return weights.merge(params, loaded), weights.merge(network_state, loaded_state)
