"""Where a run starts from when it does not start from nothing: a file of weights and its model."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from experiments.runtime.errors import ConfigError
from nfnets import baselines, list_models, optim, weights, zoo

# What a recipe may choose for weights that were trained otherwise.
_FREE_FIELDS = ('drop_rate', 'stochdepth_rate', 'train_size', 'test_size', 'augment_magnitude')


def find_spec(name: str) -> zoo.AnySpec | None:
  """Returns the model that weights are for, without reading arrays where that can be avoided.

  Args:
    name: a name that `nfnets.load_pretrained` knows, or the path of a file.

  Returns:
    The spec; None for a safetensors file of this library that was saved without one.

  Raises:
    ValueError: no such name or file, or the file cannot be read.
  """
  path = pathlib.Path(name)
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


def adopt_model(config: ml_collections.ConfigDict) -> None:
  """Makes `config.model` (unlocked) describe the model of `config.model.pretrained`.

  Raises:
    ConfigError: the config names another model, or the weights do not say which one they are for.
    ValueError: as `find_spec`.
  """
  model = config.model
  spec = find_spec(model.pretrained)
  if spec is None:
    if model.variant:
      return
    raise ConfigError(
      f'{model.pretrained} does not say which model it is for: set model.variant (or '
      "model.variant='custom' with model.spec), or save it with its spec."
    )
  if model.variant:
    named = model.spec.to_dict() if model.variant == 'custom' else None
    said = zoo.get_spec(model.variant) if named is None else zoo.spec_from_dict(named)
    if _architecture(said) != _architecture(spec):
      raise ConfigError(
        f'{model.pretrained} holds another model than model.variant={model.variant!r}: set '
        "model.variant='' (and no model.spec), then the weights say what they are."
      )
    return
  same = (name for name in list_models() if zoo.get_spec(name) == spec)
  model.variant = next(same, 'custom')
  if model.variant == 'custom':
    model.spec = ml_collections.ConfigDict(spec.to_dict())


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


def _architecture(spec: zoo.AnySpec) -> dict[str, Any]:
  """The fields that decide what the weights mean."""
  return {k: v for k, v in dataclasses.asdict(spec).items() if k not in _FREE_FIELDS}
