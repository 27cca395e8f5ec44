"""DeepMind's released NFNet weights, read safely and checked against their model."""

import logging
import os

import numpy as np

from nfnets import zoo
from nfnets.spec import ModelSpec
from nfnets.weights import formats, pickles
from nfnets.weights.tree import Tree, merge

_LOG = logging.getLogger(__name__)


def load_deepmind(
  path: str | os.PathLike, variant: str | ModelSpec | None = None, num_classes: int = 1000
) -> Tree:
  """Reads released weights, e.g. `F0_haiku.npz`. Nothing in the file is executed.

  Args:
    path: the file, in the layout of DeepMind's NFNet release (a pickle, whatever its name says).
    variant: the model that the weights are for, as in `create_model`; None: the NFNet with
      the file's number of blocks and width of head.
    num_classes: number of classes K of the weights.

  Returns:
    The parameters, module path -> name -> float32 numpy array, exactly those that the model
    needs; the classifier's are [C, K] and [K].

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is truncated, damaged, of another format or tries to run something; it
      contains NaN or infinite numbers; it belongs to another model, which the message compares
      array by array; no variant fits it.
  """
  foreign = _foreign_format(path) if os.path.isfile(path) else None
  if foreign:
    raise ValueError(f'{path} is not a weights file but {foreign}.')
  tree = pickles.read_tree(path)
  arrays = {f'{module}/{n}': array for module, e in tree.items() for n, array in e.items()}
  formats.check_finite(arrays, path)
  for key, array in arrays.items():
    if array.dtype != np.float32:
      raise ValueError(
        f'{path} holds {key} as {array.dtype}, and released weights are float32: the file is '
        f'damaged or of another origin.'
      )
  if variant is None:
    variant = find_variant(tree)
    _LOG.info('%s holds the weights of %s', path, variant)
  try:
    return merge(zoo.parameter_shapes(variant, num_classes), tree)
  except ValueError as error:
    model = 'this model' if isinstance(variant, ModelSpec) else variant
    raise ValueError(f'{path} is not {model} with {num_classes} classes: {error}') from None


def _foreign_format(path: str | os.PathLike) -> str | None:
  """What a file is instead of a pickle, and how to read it; None if it may be a pickle."""
  if formats.is_safetensors(path):
    return 'a safetensors file: read it with nfnets.weights.load, or timm weights with from_timm'
  return formats.describe(path)


def find_variant(tree: Tree) -> str:
  """Names the NFNet with a tree's number of blocks and width of the final convolution.

  Args:
    tree: module path -> name -> array of any NFNet F0..F7+.

  Raises:
    ValueError: there is no such variant.
  """
  blocks = sum('skip_gain' in entries for entries in tree.values())
  channels = np.size(tree.get('NFNet/~/final_conv', {}).get('bias', ()))
  names = [*zoo.list_models('F[0-9]'), *zoo.list_models('F[0-9]+')]
  for name in names:
    spec = zoo.get_spec(name)
    if (sum(spec.depth), spec.final_channels) == (blocks, channels):
      return name
  raise ValueError(
    f'the weights have {blocks} blocks and {channels} final channels, and none of '
    f'{", ".join(names)} has: pass the model that they are for as variant.'
  )
