"""Which parameters are clipped and which decayed: (module path, name) -> group.

[NFNet] (arXiv 2102.06171) section 4.1 clips every parameter except the final linear layer's
weights; its training recipe decays every parameter except gains and biases.

| group              | members                                   | clipped | weight decay |
|--------------------|-------------------------------------------|---------|--------------|
| `gains_and_biases` | gains, biases, skip gains, norms' scales  | yes     | no           |
| `classifier`       | the last linear layer's weight matrix     | no      | yes          |
| `weights`          | every other weight                        | yes     | yes          |
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nfnets.optim import trees

GAINS_AND_BIASES = 'gains_and_biases'
CLASSIFIER = 'classifier'
WEIGHTS = 'weights'
GROUPS = (GAINS_AND_BIASES, CLASSIFIER, WEIGHTS)

_GROUP_OF_NAME = {
  'w': WEIGHTS,
  'b': GAINS_AND_BIASES,
  'bias': GAINS_AND_BIASES,
  'gain': GAINS_AND_BIASES,
  'skip_gain': GAINS_AND_BIASES,
  'scale': GAINS_AND_BIASES,  # of Haiku's normalisation layers
  'offset': GAINS_AND_BIASES,
}


class UnknownParameterError(ValueError):
  """A parameter whose name belongs to no group."""


def assign(
  params: Mapping[str, Mapping[str, Any]],
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
) -> Any:
  """Assigns every parameter to its group by name; never guesses.

  Args:
    params: a Haiku tree, module path -> name -> array (or anything with a shape).
    classifier: module path of the classifier, e.g. 'my_net/~/logits'. None finds it if it is
      unambiguous, see `find_classifier`. '' states that the network has none (a backbone).
    names: groups of further parameter names, e.g. {'embeddings': 'weights'}.

  Returns:
    A tree like params with one group name of `GROUPS` at each array.

  Raises:
    UnknownParameterError: if a name has no group.
    ValueError: if params is not a two-level tree, `names` holds an unknown group, or the
      classifier is not in the tree, or cannot be found in it.
  """
  groups = _assign_by_name(params, names)
  if classifier != '':
    module = find_classifier(params, names) if classifier is None else classifier
    if 'w' not in params.get(module, {}):
      raise ValueError(
        f'the classifier {module!r} has no weights in this tree (no parameter {module}/w); pass '
        f'one of its modules, such as {_some(_matrices(params, names))}.'
      )
    groups[module]['w'] = CLASSIFIER
  # Each value may itself be a small tree without arrays (optax's MaskedNode), and the mapping may
  # be another type than dict; the result has exactly the structure of params.
  filled = {
    module: {name: jax.tree.map(lambda _, g=groups[module][name]: g, value)
             for name, value in entries.items()}
    for module, entries in params.items()
  }  # fmt: skip
  return jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(filled))


def clip_mask(
  params: Mapping[str, Mapping[str, Any]],
  classifier: str | None = None,
  names: Mapping[str, str] | None = None,
) -> Any:
  """A tree of bools like params: True where adaptive gradient clipping applies.

  Takes the arguments of `assign` and raises the same errors.
  """
  return jax.tree.map(lambda group: group != CLASSIFIER, assign(params, classifier, names))


def decay_mask(
  params: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> Any:
  """A tree of bools like params: True where weight decay applies.

  The classifier is decayed like any other weight, so it need not be named. Takes the other
  arguments of `assign` and raises the same errors.
  """
  groups = assign(params, classifier='', names=names)
  return jax.tree.map(lambda group: group != GAINS_AND_BIASES, groups)


def sum_by_group(values: Any, groups: Any) -> dict[str, Any]:
  """Sums scalars over each parameter group.

  Args:
    values: a tree of scalars, e.g. the `clipped` or the `units` of `clipped_share`; None is left
      out.
    groups: a tree of the same structure with group names, from `assign`.

  Returns:
    Group name -> sum, for the groups that occur.

  Raises:
    ValueError: if the two trees have different structures.
  """
  sums: dict[str, Any] = {}
  leaves, names, _ = trees.pair(values, groups, ('values', 'groups'))
  for value, group in zip(leaves, names, strict=True):
    if not trees.is_hole(value):
      sums[group] = sums.get(group, 0) + value
  return sums


def stage_of(module: str, depth: Sequence[int]) -> str:
  """Names the stage of a module by its block's number: 'stem', 'stage_1', 'stage_2', ..., 'head'.

  Blocks are modules directly under the root whose names end in 'block', Haiku's `_<number>` of the
  later ones left aside; this holds for every network of this library.

  Args:
    module: a module path, such as 'NFNet/~/nf_block_3/~/conv0'.
    depth: number of blocks of each stage.

  Returns:
    The stage; what is no block is 'stem' if its name begins with 'stem' or 'initial', else 'head'.
  """
  path = [part for part in module.split('/') if part != '~']
  name = path[min(1, len(path) - 1)]
  if name.startswith(('stem', 'initial')):
    return 'stem'
  block = re.fullmatch(r'.*block(?:_(\d+))?', name)
  if block is None:
    return 'head'
  ends = itertools.accumulate(depth)
  number = int(block.group(1) or 0)
  return next((f'stage_{i + 1}' for i, end in enumerate(ends) if number < end), 'head')


def _assign_by_name(
  params: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None
) -> dict[str, dict[str, str]]:
  """Module path -> name -> group, from the names alone."""
  table = {**_GROUP_OF_NAME, **(names or {})}
  for name, group in table.items():
    if group not in GROUPS:
      raise ValueError(f'names maps {name!r} to the group {group!r}; expected one of {GROUPS}.')
  if not isinstance(params, Mapping):
    raise ValueError(
      f'expected a Haiku tree (module path -> name -> array), got {type(params).__name__}; pass '
      f'what `init` of a transformed Haiku function returned.'
    )
  result: dict[str, dict[str, str]] = {}
  for module, entries in params.items():
    if not isinstance(entries, Mapping) or any(isinstance(v, Mapping) for v in entries.values()):
      raise ValueError(
        f'expected two levels (module path -> name -> array), but {module!r} is not a mapping of '
        f'arrays; pass what `init` of a transformed Haiku function returned.'
      )
    for name in entries:
      if name not in table:
        raise UnknownParameterError(
          f'no parameter group is known for {module}/{name}; known names are {sorted(table)}, so '
          f"rename it or pass names={{'{name}': '{WEIGHTS}'}} (or another of {GROUPS})."
        )
    result[module] = {name: table[name] for name in entries}
  return result


def find_classifier(
  params: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> str:
  """Returns the module path of the network's only linear layer, whatever its depth and name.

  Every 2-D array counts as a linear layer, except those of squeeze-excite blocks, gains and biases,
  and 'embeddings', which are looked up. In every network of this library that leaves
  `<Root>/~/linear`, for any name of the root. `optax.masked` hides the shapes of arrays that it
  leaves out; of these, a 'w' next to a 'b' counts, unless its module is called 'conv'.

  Args:
    params: a Haiku tree, module path -> name -> array (or anything with a shape).
    names: as in `assign`.

  Raises:
    ValueError: there is none, or there are several.
  """
  found = _matrices(params, names)
  if len(found) != 1 or 'w' not in params[found[0]]:
    what = f'{len(found)} linear layers are' if len(found) > 1 else "no linear layer with a 'w' is"
    raise ValueError(
      f'{what} in this network, so the classifier (whose weights are not clipped) is unclear; pass '
      f"classifier='<module path>', or classifier='' if there is none. Linear layers: "
      f'{_some(found)}.'
    )
  return found[0]


def _matrices(
  params: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> list[str]:
  """Paths of the modules that have, or may have, a matrix by which they multiply."""
  table = {**_GROUP_OF_NAME, **(names or {})}

  def is_matrix(module: str, name: str, value: Any) -> bool:
    if table.get(name) == GAINS_AND_BIASES or name == 'embeddings':
      return False
    if trees.is_hole(value):
      return name == 'w' and 'b' in params[module] and 'conv' not in module.rpartition('/')[2]
    return len(getattr(value, 'shape', ())) == 2

  return [
    module for module, entries in params.items()
    if 'squeeze_excite' not in module
    and any(is_matrix(module, name, value) for name, value in entries.items())
  ]  # fmt: skip


def _some(modules: list[str]) -> str:
  """The first few of a list, readable in a sentence."""
  rest = f' and {len(modules) - 5} more' if len(modules) > 5 else ''
  return (', '.join(map(repr, modules[:5])) + rest) or 'none'
