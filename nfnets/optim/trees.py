"""Trees that belong together, paired by their structure, as optax pairs them.

A hole is None or `optax.MaskedNode`: the gradient of a parameter that something else updates.
"""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import optax

_Immutable = type(hk.data_structures.to_immutable_dict({}))


def is_hole(value: Any) -> bool:
  """Whether a place of a tree of gradients was left out."""
  return value is None or isinstance(value, optax.MaskedNode)


def leaf_paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[str]:
  """'<module path>/<name>' of each leaf, in the order of `jax.tree.leaves`."""
  entries = jax.tree_util.tree_leaves_with_path(_plain(tree), is_leaf=is_leaf)
  return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in entries]


def pair(tree: Any, other: Any, names: tuple[str, str]) -> tuple[list[Any], list[Any], Any]:
  """Returns the leaves of two trees at the same places, and how to put them together.

  A hole of `tree` is one of its leaves, whatever `other` has there; everything else must match.

  Args:
    tree: the tree whose holes count, e.g. gradients.
    other: e.g. the parameters.
    names: what the two are called in the message, in the plural.

  Returns:
    (leaves of `tree`, holes among them; values of `other` at the same places; the structure).

  Raises:
    ValueError: the structures differ; the sentence says where.
  """
  leaves, structure = jax.tree.flatten(tree, is_leaf=is_hole)
  try:
    others = structure.flatten_up_to(other)
  except (ValueError, TypeError):
    others = None
  if others is None or not all(
    is_hole(leaf) or jax.tree_util.all_leaves([value])
    for leaf, value in zip(leaves, others, strict=True)
  ):
    raise ValueError(
      f'{names[0]} and {names[1]} must be trees of one structure, but '
      f'{_difference(tree, other, names)}; pass the {names[1]} that the {names[0]} belong to (None '
      f'among the {names[0]} leaves a place out).'
    )
  return leaves, others, structure


def masked(
  inner: optax.GradientTransformation, mask: Callable[[Any], Any] | Any
) -> optax.GradientTransformationExtraArgs:
  """`optax.masked` whose mask sees the parameters, which are whole where gradients have holes."""

  def update(updates, state, params=None, **extra_args):
    chosen = mask(updates if params is None else params) if callable(mask) else mask
    return optax.masked(inner, chosen).update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(optax.masked(inner, mask).init, update)


def _difference(tree: Any, other: Any, names: tuple[str, str]) -> str:
  """Describes where two structures differ."""
  ours, theirs = leaf_paths(tree, is_hole), leaf_paths(other, is_hole)
  for first, second, name in ((ours, theirs, names[0]), (theirs, ours, names[1])):
    alone = sorted(set(first) - set(second))
    if alone:
      return f'only the {name} have {alone[0]!r}'
  for path, value in zip(theirs, jax.tree.leaves(_plain(other), is_leaf=is_hole), strict=True):
    if is_hole(value):
      return f'the {names[1]} have nothing at {path!r}'
  return f'their containers are not of one type: {type(tree).__name__} and {type(other).__name__}'


def _plain(tree: Any) -> Any:
  """Replaces Haiku's immutable mappings, to whose leaves JAX gives no names, with dicts.

  Those do not show their holes to JAX, so the dicts have none.
  """
  if isinstance(tree, _Immutable):
    entries = {key: _plain(value) for key, value in tree.items()}
    return {key: value for key, value in entries.items() if not is_hole(value)}
  return {key: _plain(value) for key, value in tree.items()} if type(tree) is dict else tree
