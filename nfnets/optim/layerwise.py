"""Frozen parameters and learning rates by layer: what fine-tuning adds to an optimiser.

Parameters are named by prefixes of `<module path>/<name>`. A prefix ends with a whole part of the
path: `NFNet/~/nf_block` covers the first block with everything in it, but neither
`NFNet/~/nf_block_1` nor all blocks. In a part, `*`, `?` and `[12]` are wildcards:
`NFNet/~/nf_block*` covers every block, `NFNet/~/stem_conv*` the four convolutions of the stem.
"""

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets.optim import agc, hyperparameters, trees

_TRAINED, _FROZEN = 'trained', 'frozen'


def covers(prefix: str, name: str) -> bool:
  """Whether a prefix such as `NFNet/~/stem_conv*` covers a parameter, `<module path>/<name>`.

  It does if each part of the prefix, between slashes, matches that part of the name. A trailing
  slash makes no difference.
  """
  parts, name_parts = prefix.rstrip('/').split('/'), name.split('/')
  return len(parts) <= len(name_parts) and all(
    fnmatch.fnmatchcase(part, pattern) for pattern, part in zip(parts, name_parts, strict=False)
  )


def frozen_mask(params: Mapping[str, Mapping[str, Any]], frozen: Iterable[str]) -> Any:
  """A tree of bools like params: True where a prefix of `frozen` covers the parameter.

  Raises:
    ValueError: a prefix covers no parameter.
  """
  prefixes = dict.fromkeys(frozen, True)
  return _by_prefix(params, prefixes, default=False, what='frozen')


def rate_multipliers(
  params: Mapping[str, Mapping[str, Any]], multipliers: Mapping[str, jax.typing.ArrayLike]
) -> Any:
  """A tree like params: the multiplier of the most precise matching prefix, or 1.0.

  The most precise prefix is the one with the most parts, then with the most letters that are not
  wildcards, then the one without wildcards.

  Raises:
    ValueError: a prefix covers no parameter, or a multiplier is negative or not finite.
  """
  for prefix, value in multipliers.items():
    if not hyperparameters.passes(value, lambda x: 0 <= x < math.inf):
      raise ValueError(
        f'the learning-rate multiplier of {prefix!r} is {value!r}; expected a number from 0 on.'
      )
  return _by_prefix(params, multipliers, default=1.0, what='learning-rate multiplier')


def by_layer(
  optimizer: optax.GradientTransformation,
  *,
  frozen: Iterable[str] = (),
  multipliers: Mapping[str, jax.typing.ArrayLike] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Makes an optimiser freeze some parameters, and move others more slowly or faster.

  A frozen parameter has an update of exactly 0 and no optimiser state: neither weight decay nor
  momentum moves it. A multiplier scales the whole update, including weight decay, as another
  learning rate would.

  Args:
    optimizer: what updates the other parameters, e.g. `nfnet_sgd`. Extra arguments of `update`
      are passed on to it.
    frozen: prefixes of the parameters that do not change, see `covers`.
    multipliers: prefix -> factor on the learning rate, which may be traced; the most precise
      matching prefix wins, see `rate_multipliers`.

  Returns:
    A transformation for Haiku parameter trees; `update(grads, state, params)` needs what the
      optimiser needs, and params if grads has holes (None, optax.MaskedNode), which stay.

  Raises:
    ValueError: from `init` and `update`: a prefix covers no parameter, a multiplier is out of
      range, or nothing is left to train.
  """
  frozen, multipliers = tuple(frozen), dict(multipliers or {})
  if not frozen and not multipliers:
    return optax.with_extra_args_support(optimizer)
  inner = _frozen(optimizer, frozen)
  if multipliers:
    inner = optax.chain(inner, _scaled(multipliers))

  def init(params):
    # The names are checked against the whole tree.
    rate_multipliers(params, multipliers)
    if frozen and all(jax.tree.leaves(frozen_mask(params, frozen))):
      raise ValueError(f'frozen={frozen} covers every parameter: nothing is left to train.')
    return inner.init(params)

  # `agc.chain` has to know that there is clipping in it.
  clips = isinstance(optimizer, agc.AdaptiveGradClip)
  kind = agc.AdaptiveGradClip if clips else optax.GradientTransformationExtraArgs
  return kind(init, inner.update)


def _frozen(
  optimizer: optax.GradientTransformation, frozen: tuple[str, ...]
) -> optax.GradientTransformationExtraArgs:
  """Gives the optimiser the parameters that are not frozen; the others get zeros."""
  if not frozen:
    return optax.with_extra_args_support(optimizer)
  transforms = {_TRAINED: optimizer, _FROZEN: optax.set_to_zero()}

  def partition(tree):
    labels = jax.tree.map(lambda f: _FROZEN if f else _TRAINED, frozen_mask(tree, frozen))
    return optax.multi_transform(transforms, labels)

  def update(updates, state, params=None, **extra_args):
    whole = updates if params is None else params
    return partition(whole).update(updates, state, params, **extra_args)

  def init(params):
    return partition(params).init(params)

  return optax.GradientTransformationExtraArgs(init, update)


def _scaled(
  multipliers: Mapping[str, jax.typing.ArrayLike],
) -> optax.GradientTransformation:
  """Multiplies updates, in their dtypes."""

  def scale(updates, params):
    rates = rate_multipliers(updates if params is None else params, multipliers)
    updates, rates, structure = trees.pair(updates, rates, ('updates', 'parameters'))
    scaled = [
      u if trees.is_hole(u) else u * jnp.asarray(rate).astype(u.dtype)
      for u, rate in zip(updates, rates, strict=True)
    ]
    return jax.tree.unflatten(structure, scaled)

  return optax.stateless(scale)


def _by_prefix(
  params: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], *, default: Any, what: str
) -> Any:
  """A tree like params with the value of the most precise prefix that fits at each leaf."""
  unused = set(values)

  def value_of(name: str) -> Any:
    fitting = [prefix for prefix in values if covers(prefix, name)]
    unused.difference_update(fitting)
    return values[max(fitting, key=_precision)] if fitting else default

  paths = trees.leaf_paths(params)
  result = jax.tree.unflatten(jax.tree.structure(params), [value_of(path) for path in paths])
  if unused:
    prefix = min(unused)
    raise ValueError(
      f'no parameter begins with the {what} prefix {prefix!r}; {_hint(prefix, paths)}'
    )
  return result


def _precision(prefix: str) -> tuple[int, int, bool]:
  """Orders prefixes: the larger, the fewer parameters they are meant for."""
  letters = re.sub(r'\[[^]]*\]|[*?]', '', prefix.rstrip('/'))
  return prefix.rstrip('/').count('/'), len(letters), letters == prefix.rstrip('/')


def _hint(prefix: str, paths: list[str]) -> str:
  """Suggests what to write instead of a prefix that covers nothing."""
  if any(covers(prefix.rstrip('/') + '*', path) for path in paths):
    return (
      f'a prefix ends with a whole part of the path: write {prefix.rstrip("/") + "*"!r} for what '
      f'begins so.'
    )
  modules = list(dict.fromkeys(path.rpartition('/')[0] for path in paths))
  some = [module for module in modules if '/~/' in module][:4] or modules[:4]
  return (
    f'expected the beginning of <module path>/<name>, whole parts of it, with modules such as '
    f'{", ".join(map(repr, some))}.'
  )
