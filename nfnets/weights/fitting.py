"""Fits a parameter tree to its network: its root module, its classifier, its channels.

A network may have any module name (`NFNet(..., name='MyNet')`) or be part of another module, but
this library identifies weights by the name of the network's family. Therefore all weights, from
files, for `Classifier` or for `deploy`, go through `fit`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nfnets import zoo
from nfnets.baselines import join_state, split_state
from nfnets.weights.tree import Tree, merge

_CHANNELS = 3  # of an image


def fit(
  params: Mapping[str, Mapping[str, Any]], spec: zoo.AnySpec, *, needs_classifier: bool = False
) -> Tree:
  """Checks a tree against its network, whatever the network's module was called.

  Args:
    params: module path -> name -> array; for a batch-normalised network with its state, see
      `baselines.join_state`. The whole classifier may be missing.
    spec: the network.
    needs_classifier: whether a missing classifier is an error.

  Returns:
    The arrays as numpy arrays under the name of the spec's family, in the network's order and
    dtypes (float32, and int32 for counters).

  Raises:
    ValueError: the tree holds several networks or another one, which the message compares array by
      array; an array contains NaN or infinite numbers; the classifier is missing.
  """
  params = rename_root(params, spec)
  num_classes = count_classes(params, spec)
  classifier = zoo.classifier_path(spec)
  if num_classes is None and needs_classifier:
    raise ValueError(
      f'the weights have no classifier ({classifier} with w and b), so they give no labels: make a '
      f'new one by nfnets.load_pretrained(path, num_classes=K), and train it by a run with '
      f'--config.finetune.new_head=True.'
    )
  shapes = zoo.parameter_shapes(spec, num_classes or 1)
  if num_classes is None:
    shapes.pop(classifier)
  _check_channels(params, shapes)
  return merge(shapes, params)


def rename_root(params: Mapping[str, Mapping[str, Any]], spec: zoo.AnySpec) -> Tree:
  """Renames a network's root module to its family's name: 'MyNet/~/linear' to 'NFNet/~/linear'.

  Args:
    params: as in `fit`.
    spec: the network.

  Returns:
    The same arrays under module paths that begin with `spec.family`.

  Raises:
    ValueError: the tree is empty, or holds several networks, or one of another family.
  """
  parameters, state = split_state(params)
  paths = [module.split('/') for module in (*parameters, *state)]
  roots = sorted({path[0] for path in paths})
  if len(roots) != 1:
    raise ValueError(
      f'expected the arrays of one network and got those of {", ".join(roots) or "none"}: pass the '
      f'modules under one of them.'
    )
  root = _root(paths)
  if root[-1] != spec.family and root[-1] in zoo.FAMILIES:
    raise ValueError(
      f'the parameters are of a network {root[-1]} and the spec is of a {spec.family}: pass the '
      f'spec that they were saved with.'
    )
  old = '/'.join(root)

  def renamed(tree: Tree) -> Tree:
    return {spec.family + module.removeprefix(old): entries for module, entries in tree.items()}

  return join_state(renamed(parameters), renamed(state))


def _root(paths: Sequence[Sequence[str]]) -> list[str]:
  """The path of the module that all modules are in, e.g. ['outer', '~', 'NFNet']."""
  common = []
  for parts in zip(*paths, strict=False):  # as far as the shortest path goes
    if len(set(parts)) > 1:
      break
    common.append(parts[0])
  if '~' not in common:
    return common[:1]
  return common[: len(common) - 1 - common[::-1].index('~')]  # up to the last '~'


def count_classes(params: Mapping[str, Mapping[str, Any]], spec: zoo.AnySpec) -> int | None:
  """Returns the number of classes of a tree under its family's name; None: it has no classifier."""
  classifier = params.get(zoo.classifier_path(spec))
  if not classifier:
    return None
  return np.size(classifier['b']) if 'b' in classifier else 1  # `merge` names what it lacks


def check_channels(channels: int, weight: str, gain: str | None) -> None:
  """Refuses a first convolution that is not for RGB, and says how to convert it.

  Args:
    channels: its number of input channels.
    weight: the name of its weights.
    gain: the name of its gains; None if its weights are not standardised.

  Raises:
    ValueError: it takes another number than 3.
  """
  if channels == _CHANNELS:
    return
  number = f'{channels} channel{"s" if channels > 1 else ""}'
  message = f'{weight} takes images of {number} (timm: in_chans={channels}), not RGB'
  if channels != 1:
    raise ValueError(f'{message}: only networks for RGB pictures can be used here.')
  scaled = f'{weight} by 3' if gain is None else f'{gain} by sqrt(3)'
  raise ValueError(
    f'{message}: repeat {weight} {_CHANNELS} times along its input channels and divide {scaled}; '
    f'then the network gives for a grey picture as RGB what it gave for its one channel.'
  )


def _check_channels(params: Mapping[str, Mapping[str, Any]], shapes: Tree) -> None:
  """As `check_channels`, of the first convolution of a tree that the network has too."""
  stem = next(m for m, e in shapes.items() if ('stem' in m or 'initial' in m) and 'w' in e)
  found, wanted = np.shape(params.get(stem, {}).get('w', ())), shapes[stem]['w'].shape
  if wanted[2] != _CHANNELS:
    return  # a network for something else: `merge` compares the shapes
  if len(found) == len(wanted) and (*found[:2], found[3]) == (*wanted[:2], wanted[3]):
    gain = f'{stem}/gain' if 'gain' in shapes[stem] else None
    check_channels(found[2], f'{stem}/w', gain)
