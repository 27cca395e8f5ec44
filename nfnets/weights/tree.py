"""A Haiku parameter tree as one safetensors file, and back.

Each array is stored under the key `<module path>//<name>`, e.g. `NFNet/~/linear//w`. The file's
metadata (text -> text) contain the format's name and version and, as JSON, the model's spec.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from nfnets.audio import SoundPreprocessing
from nfnets.preprocessing import METADATA_KEY, Preprocessing
from nfnets.weights import formats
from nfnets.weights.atomic import replacing

if TYPE_CHECKING:
  from nfnets.zoo import AnySpec

FORMAT = 'nfnets.tree'
VERSION = '1'
_SEPARATOR = '//'
_RESERVED = ('format', 'format_version', 'spec')
_FLOATS = ('float16', 'bfloat16', 'float32', 'float64')

Tree = dict[str, dict[str, np.ndarray]]


def save(
  path: str | os.PathLike,
  params: Mapping[str, Mapping[str, Any]],
  *,
  spec: 'AnySpec | Mapping[str, Any] | None' = None,
  class_names: Sequence[str] | None = None,
  preprocessing: Preprocessing | SoundPreprocessing | None = None,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a parameter tree; an existing file is replaced atomically, or not at all.

  Threads and processes may save at the same time, even to the same path; the last one wins.

      nfnets.weights.save('mine.safetensors', params, spec=spec, class_names=['cat', 'dog'])

  Args:
    path: the file, in an existing folder; a link is kept, and the file that it points to is
      replaced.
    params: module path -> name -> array of any shape, () included, in its own dtype (float32,
      bfloat16, ...). Device arrays must be fully addressable.
    spec: what describes the model: its spec, or a mapping of JSON types (tuples become lists).
    class_names: K names, in the order of the logits.
    preprocessing: how pictures, or sounds, are prepared for the network.
    metadata: further text, e.g. {'dataset': 'imagenet2012'}.

  Raises:
    OSError: the file cannot be written.
    ValueError: if params is not such a tree or has an array of another dtype (float8, complex),
      spec is not JSON or metadata not text, or metadata uses a reserved name.
  """
  header = {'format': FORMAT, 'format_version': VERSION}
  for key, value in (metadata or {}).items():
    if key in _RESERVED or not isinstance(key, str) or not isinstance(value, str):
      raise ValueError(
        f'metadata must map text to text and may not use {_RESERVED}, got {key!r}: {value!r}.'
      )
    header[key] = value
  if class_names is not None:
    header['class_names'] = json.dumps(list(class_names))
  if preprocessing is not None:
    header[METADATA_KEY] = preprocessing.to_json()
  if spec is not None:
    fields = dict(spec) if isinstance(spec, Mapping) else spec.to_dict()
    try:
      header['spec'] = json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'spec must hold JSON types only ({error}); convert the other values first.'
      ) from None
  arrays = _flatten(params)
  try:
    with replacing(path) as temporary:
      safetensors.numpy.save_file(arrays, temporary, metadata=header)
  except safetensors.SafetensorError as error:
    raise ValueError(f'safetensors cannot store these arrays ({error}).') from None


def load(path: str | os.PathLike, *, allow_nonfinite: bool = False) -> tuple[Tree, dict[str, Any]]:
  """Reads a file that `save` wrote. Nothing in a file can make this run code.

  Args:
    path: the file.
    allow_nonfinite: accept NaN and infinite numbers, to inspect the file of a broken step.

  Returns:
    The tree (module path -> name -> numpy array, bit-equal to what was saved), and the metadata
    (text -> text), where 'spec' is the saved spec itself if there was one.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is truncated, damaged, or of another format or version, or an array
      holds NaN or infinite numbers or is of a dtype that cannot be a weight.
  """
  metadata, arrays = _read(path, with_arrays=True)
  params: Tree = {}
  for key, array in arrays.items():
    module, separator, name = key.rpartition(_SEPARATOR)
    if not (module and separator and name):
      raise ValueError(
        f'{path} is damaged: its array {key!r} is not named <module path>{_SEPARATOR}<name>.'
      )
    params.setdefault(module, {})[name] = array
  if not allow_nonfinite:
    formats.check_finite(_leaves(params), path)
  return params, metadata


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
  """Reads only the metadata that `load` returns, no arrays; raises the same errors as `load`."""
  return _read(path, with_arrays=False)[0]


def merge(target: Mapping[str, Mapping[str, Any]], loaded: Mapping[str, Mapping[str, Any]]) -> Tree:
  """Checks loaded arrays against a model: the same names and shapes, none missing and none extra.

  Args:
    target: what the model expects: module path -> name -> array, anything with `shape` (and
      `dtype`, then the result is cast to it), or a shape as a tuple or list.
    loaded: module path -> name -> array.

  Returns:
    The loaded arrays as numpy arrays, in the target's order and dtypes.

  Raises:
    ValueError: the message names what the file lacks, what the model lacks and what differs in
      shape, or the arrays with NaN or infinite numbers, or with a dtype that cannot be a weight.
  """
  wanted = _leaves(target)
  found = _leaves(loaded)
  missing = [f'{key} {_shape(wanted[key])}' for key in wanted if key not in found]
  unexpected = [f'{key} {_shape(found[key])}' for key in found if key not in wanted]
  different = [
    f'{key} {_shape(wanted[key])} in the model, {_shape(found[key])} loaded'
    for key in wanted
    if key in found and _shape(wanted[key]) != _shape(found[key])
  ]
  if missing or unexpected or different:
    problems = (
      _report('missing from the loaded weights', missing),
      _report('unexpected in the loaded weights', unexpected),
      _report('of another shape', different),
    )
    raise ValueError(
      f'the loaded weights ({len(found)} arrays) do not fit the model ({len(wanted)} arrays); '
      f'build the model with the variant and number of classes of the weights.'
      + ''.join(filter(None, problems))
    )
  arrays = {key: np.asarray(leaf) for key, leaf in found.items()}
  for key, array in arrays.items():
    _check_dtype(key, array)
  formats.check_finite(arrays, 'the loaded tree')
  merged: Tree = {}
  for module, entries in target.items():
    merged[module] = {
      name: np.asarray(arrays[f'{module}/{name}'], dtype=getattr(leaf, 'dtype', None))
      for name, leaf in entries.items()
    }
  return merged


def _read(
  path: str | os.PathLike, with_arrays: bool
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  """The metadata, and key -> array (none unless asked for) of a file that `save` wrote."""
  metadata, arrays = formats.read_safetensors(path, with_arrays=with_arrays, allow_nonfinite=True)
  if metadata.pop('format', None) != FORMAT:
    raise ValueError(
      f'{path} is a safetensors file of another program (its metadata lack format={FORMAT!r}); '
      f'convert it first, timm weights by `nfnets convert --model NAME` or from_timm.'
    )
  version = metadata.pop('format_version', None)
  if version != VERSION:
    raise ValueError(
      f'{path} has format version {version!r} and this library reads {VERSION!r}; update nfnets.'
    )
  if 'spec' in metadata:
    try:
      metadata['spec'] = json.loads(metadata['spec'])
    except ValueError:
      raise ValueError(f'{path} is damaged: the spec in its metadata is not JSON.') from None
  return metadata, arrays


def _flatten(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Key -> contiguous numpy array; refuses what `load` could not bring back as it was."""
  if not isinstance(params, Mapping) or not params:
    raise ValueError(
      f'expected a tree (module path -> name -> array) with arrays, got {type(params).__name__}.'
    )
  flat = {}
  for module, entries in params.items():
    if not isinstance(entries, Mapping) or not entries:
      raise ValueError(f'module {module!r} must map names to arrays and hold at least one.')
    for name, value in entries.items():
      if not module or not name or '/' in name:
        raise ValueError(f'module path {module!r} with the name {name!r} cannot be stored.')
      array = np.asarray(value, order='C')  # ascontiguousarray would make () into (1,)
      if array.dtype.kind in 'OSUMm':
        raise ValueError(
          f'{module}/{name} is a {type(value).__name__}, not an array of numbers; the tree has two '
          f'levels, module path -> name -> array.'
        )
      _check_dtype(f'{module}/{name}', array)
      flat[f'{module}{_SEPARATOR}{name}'] = array
  return flat


def _check_dtype(key: str, array: Any) -> None:
  """Refuses what numpy and safetensors do not both have, or no layer computes with."""
  if array.dtype.kind not in 'biu' and array.dtype.name not in _FLOATS:
    raise ValueError(
      f'{key} is of {array.dtype}, and weights in safetensors are {", ".join(_FLOATS)} or '
      f'integers: convert it first.'
    )


def _leaves(tree: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """'module/name' -> leaf."""
  return {f'{m}/{name}': leaf for m, entries in tree.items() for name, leaf in entries.items()}


def _shape(leaf: Any) -> tuple[int, ...]:
  """The shape of an array, or the shape that a tuple or list is."""
  return tuple(leaf if isinstance(leaf, tuple | list) else np.shape(leaf))


def _report(what: str, items: list[str], limit: int = 5) -> str:
  """One line of the merge error: how many and the first few; nothing for none."""
  if not items:
    return ''
  rest = f', and {len(items) - limit} more' if len(items) > limit else ''
  return f'\n  {len(items)} {what}: {", ".join(items[:limit])}{rest}'
