"""Where a run starts from when it does not start from nothing: a file of weights and its model."""

import json
import pathlib
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.runtime import local_paths
from experiments.runtime.errors import ConfigError
from nfnets import baselines, optim, weights, zoo
from nfnets.audio import SoundPreprocessing
from nfnets.preprocessing import Preprocessing, read_metadata


def _place(name: str) -> pathlib.Path | str:
  """The file that weights are in, or the published name of what is downloaded."""
  local_paths.require(name, 'weights')
  return weights.locate(name)


def find_spec(name: str) -> zoo.AnySpec | None:
  """Returns the model that weights are for, without reading arrays where that can be avoided.

  Args:
    name: a name that `nfnets.load_pretrained` knows, or the path of a file or of a run's folder.

  Returns:
    The spec; None for a safetensors file of this library that was saved without one.

  Raises:
    OSError: the folder has no weights.
    ValueError: no such name or file, or the file cannot be read.
  """
  place = _place(name)
  if isinstance(place, str):
    return zoo.get_spec(place)
  if not weights.is_safetensors(place):
    return weights.load_pretrained(place).spec
  stored = weights.read_metadata(place).get('spec')
  return None if stored is None else zoo.spec_from_dict(stored)


def find_preprocessing(name: str) -> Preprocessing | SoundPreprocessing | None:
  """Returns how pictures, or sounds, were prepared for weights; None: they do not say.

  Args:
    name: as in `find_spec`.

  Raises:
    ValueError: the file cannot be read.
  """
  place = _place(name)
  if isinstance(place, str):
    return weights.preprocessing_of(place)
  if not weights.is_safetensors(place):
    return weights.load_pretrained(place).preprocessing
  try:
    return read_metadata(weights.read_metadata(place))
  except ValueError as error:
    raise ValueError(f'{place} cannot be used: {error}') from None


def load(name: str, spec: zoo.AnySpec | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
  """Returns the parameters and, of a baseline with batch normalisation, the running statistics.

  Args:
    name: as in `find_spec`.
    spec: the network, for a file that does not describe its own.

  Returns:
    Arrays under the name of the network's family, whatever its module was called.

  Raises:
    ConnectionError: published weights cannot be downloaded.
    ValueError: no such name or file, or the file cannot be read.
  """
  place = _place(name)
  if isinstance(place, str) or not weights.is_safetensors(place):
    return weights.load_pretrained(name).params, {}
  tree, metadata = weights.load(place)
  if 'spec' in metadata:
    spec = zoo.spec_from_dict(metadata['spec'])
  return baselines.split_state(tree if spec is None else weights.rename_root(tree, spec))


def places_of_classes(name: str, class_names: Sequence[str], num_logits: int) -> np.ndarray | None:
  """Finds the classes of a data set among those of weights, by name.

  Args:
    name: as in `find_spec`.
    class_names: of the data set, K names.
    num_logits: classes of the weights.

  Returns:
    [K] int32, the weights' number of each; None if the weights do not name their classes.

  Raises:
    ConfigError: they do not know one, or their names cannot be used.
  """
  place = _place(name)
  if isinstance(place, str) or not weights.is_safetensors(place):
    return None
  text = weights.read_metadata(place).get('class_names')
  if text is None:
    return None
  try:
    # Folders give names in this form; those that older versions saved may be in another.
    names = [unicodedata.normalize('NFC', kind) for kind in json.loads(text)]
  except (TypeError, ValueError):
    names = []
  if len(names) != num_logits:
    raise ConfigError(
      f'{name} has {num_logits} classes, but its class_names are no list of so many names: save it '
      'again, with names for all classes or none.'
    )
  if names[: len(class_names)] == list(class_names):  # several classes may then share a name
    return np.arange(len(class_names), dtype=np.int32)
  unknown = [kind for kind in class_names if names.count(kind) != 1]
  if unknown:
    more = f' and {len(unknown) - 1} more' if len(unknown) > 1 else ''
    known = ', '.join(map(repr, names[:10])) + (', ...' if len(names) > 10 else '')
    raise ConfigError(
      f'the data has the class {unknown[0]!r}{more}, which {name} does not know by one name of its '
      f'{num_logits}: {known}. Name the classes of the data as the weights do, or train a new '
      'classifier (--config.finetune.new_head=True).'
    )
  return np.array([names.index(kind) for kind in class_names], np.int32)


def start_from(
  name: str,
  params: Mapping[str, Any],
  network_state: Mapping[str, Any],
  *,
  new_head: bool,
  class_names: Sequence[str] = (),
  spec: zoo.AnySpec | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Puts loaded weights in the place of fresh ones, strictly: every array, in its shape.

  Args:
    name: as in `load`.
    params: the network's fresh parameters.
    network_state: its fresh state.
    new_head: keep the fresh classifier, whatever the weights' own is.
    class_names: of the data set; the weights' own classifier is put into their order, if the
      weights name their classes.
    spec: as in `load`.

  Returns:
    Parameters and state as numpy arrays.

  Raises:
    ConfigError: the head is to be kept, and there is none, or it is for other classes.
    ValueError: the weights do not fit; what `load` raises.
  """
  loaded, loaded_state = load(name, spec)
  head = optim.find_classifier(params)
  if new_head:
    loaded = {**loaded, head: params[head]}
  else:
    own = _own_head(name, loaded, head, np.size(params[head]['b']))
    places = places_of_classes(name, class_names, np.size(own['b']))
    if places is not None:
      rest = np.setdiff1d(np.arange(np.size(own['b'])), places)  # those that the data lack
      own = {key: np.asarray(x)[..., np.append(places, rest)] for key, x in own.items()}
    loaded = {**loaded, head: own}
  return weights.merge(params, loaded), weights.merge(network_state, loaded_state)


def _own_head(
  name: str, loaded: Mapping[str, Any], head: str, num_classes: int
) -> Mapping[str, np.ndarray]:
  """The classifier of loaded weights, of so many classes."""
  if 'b' not in loaded.get(head, {}):
    raise ConfigError(
      f'{name} has no classifier: set --config.finetune.new_head=True for a new one.'
    )
  if np.size(loaded[head]['b']) != num_classes:
    raise ConfigError(
      f'{name} knows {np.size(loaded[head]["b"])} classes and the run has {num_classes}: set '
      '--config.finetune.new_head=True for a new classifier.'
    )
  return loaded[head]
