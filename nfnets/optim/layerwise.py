"""Frozen parameters and learning rates by layer: what fine-tuning adds to an optimiser.

Parameters are named by prefixes of `<module path>/<name>`, such as 'NFNet/~/stem' for the four
convolutions of the stem. 'NFNet/~/nf_block' covers every block, as nf_block_1 begins with it;
'NFNet/~/nf_block/' is the first block alone.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import optax

_TRAINED, _FROZEN = 'trained', 'frozen'


def frozen_mask(params: Mapping[str, Mapping[str, Any]], frozen: Iterable[str]) -> Any:
  """A tree of bools like params: True where a prefix of `frozen` covers the parameter.

  Raises:
    ValueError: a prefix matches no parameter.
  """
  prefixes = dict.fromkeys(frozen, True)
  return _by_prefix(params, prefixes, default=False, what='frozen')


def rate_multipliers(
  params: Mapping[str, Mapping[str, Any]], multipliers: Mapping[str, float]
) -> Any:
  """A tree of floats like params: the multiplier of the longest prefix that fits, else 1.

  Raises:
    ValueError: a prefix matches no parameter, or a multiplier is negative or not finite.
  """
  for prefix, value in multipliers.items():
    if not 0 <= value < math.inf:
      raise ValueError(
        f'the learning-rate multiplier of {prefix!r} is {value!r}; expected a number from 0 on.'
      )
  return _by_prefix(params, multipliers, default=1.0, what='learning-rate multiplier')


def by_layer(
  optimizer: optax.GradientTransformation,
  *,
  frozen: Iterable[str] = (),
  multipliers: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
  """Makes an optimiser leave some parameters alone, and move others more slowly or faster.

  A frozen parameter has an update of exactly 0 and no optimiser state: neither weight decay nor
  momentum moves it. A multiplier scales the whole update, the share of weight decay included, as
  another learning rate would.

  Args:
    optimizer: what updates the other parameters, e.g. `nfnet_sgd`. It must not need the
      classifier if that is frozen.
    frozen: prefixes of the parameters that stay as they are.
    multipliers: prefix -> factor on the learning rate; the longest prefix that fits counts.

  Returns:
    A transformation for Haiku parameter trees; `update(grads, state, params)` needs params.

  Raises:
    ValueError: from `init` and `update`: a prefix matches no parameter, a multiplier is out of
      range, or nothing is left to train.
  """
  frozen, multipliers = tuple(frozen), dict(multipliers or {})
  if multipliers:
    scale = optax.stateless(
      lambda updates, _: jax.tree.map(
        lambda u, m: u * m, updates, rate_multipliers(updates, multipliers)
      )
    )
    # The names are checked against the whole tree, so this stands outside of the freezing.
    optimizer = optax.chain(_frozen(optimizer, frozen), scale)
    return _checked(optimizer, lambda params: rate_multipliers(params, multipliers))
  return _frozen(optimizer, frozen)


def _frozen(
  optimizer: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformation:
  """Gives the optimiser the parameters that are not frozen; the others get zeros."""
  if not frozen:
    return optimizer

  def labels(tree):
    return jax.tree.map(lambda f: _FROZEN if f else _TRAINED, frozen_mask(tree, frozen))

  def check(params):
    if all(jax.tree.leaves(frozen_mask(params, frozen))):
      raise ValueError(f'frozen={frozen} covers every parameter: nothing is left to train.')

  transforms = {_TRAINED: optimizer, _FROZEN: optax.set_to_zero()}
  return _checked(optax.multi_transform(transforms, labels), check)


def _checked(transformation: optax.GradientTransformation, check) -> optax.GradientTransformation:
  """Calls `check(params)` before the state is made."""

  def init(params):
    check(params)
    return transformation.init(params)

  return optax.GradientTransformation(init, transformation.update)


def _by_prefix(
  params: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], *, default: Any, what: str
) -> Any:
  """A tree like params with the value of the longest matching prefix at each leaf."""
  unused = set(values)

  def value_of(path: tuple, _: Any) -> Any:
    name = '/'.join(str(key.key) for key in path)
    matching = [prefix for prefix in values if name.startswith(prefix)]
    unused.difference_update(matching)
    return values[max(matching, key=len)] if matching else default

  result = jax.tree_util.tree_map_with_path(value_of, params)
  if unused:
    modules = [module for module in params if '/~/' in module][:4]
    raise ValueError(
      f'no parameter begins with the {what} prefix {min(unused)!r}; expected the beginning of '
      f'<module path>/<name>, with modules such as {", ".join(map(repr, modules or params))}.'
    )
  return result
