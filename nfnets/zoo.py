"""The only place where a string becomes a model."""

import difflib
import fnmatch
from typing import Any

import haiku as hk

from nfnets import nfnet
from nfnets.spec import ModelSpec

# Family by family: the variant table and the Haiku class that its rows are built with.
_FAMILIES: tuple[tuple[dict[str, ModelSpec], type[hk.Module]], ...] = (
  (nfnet.VARIANTS, nfnet.NFNet),
)


def list_models(pattern: str = '*') -> list[str]:
  """Returns the names that match a shell-style pattern, e.g. 'F?+', in the papers' order."""
  return [name for table, _ in _FAMILIES for name in table if fnmatch.fnmatch(name, pattern)]


def get_spec(name: str) -> ModelSpec:
  """Returns the spec of a model's name.

  Raises:
    ValueError: there is no such model.
  """
  return _find(name)[0]


def create_model(name: str | ModelSpec, num_classes: int = 1000, **overrides: Any) -> hk.Module:
  """Builds a model by name. Call it inside `hk.transform`, as any Haiku module.

  Args:
    name: a name of `list_models()`, or a `ModelSpec`.
    num_classes: number of logits.
    **overrides: arguments of the family's class (`drop_rate`, `activation`, ...).

  Returns:
    A Haiku module called as `(images, is_training)` -> `{'pool': [N, C], 'logits': [N, K]}`.

  Raises:
    ValueError: there is no such model.
  """
  if isinstance(name, ModelSpec):
    return nfnet.NFNet(num_classes, name, **overrides)
  spec, module_class = _find(name)
  return module_class(num_classes, spec, **overrides)


def _find(name: str) -> tuple[ModelSpec, type[hk.Module]]:
  for table, module_class in _FAMILIES:
    if name in table:
      return table[name], module_class
  names = list_models()
  close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
  raise ValueError(
    f'Unknown model {name!r}: did you mean {" or ".join(close)}? '
    f'nfnets.list_models() names all {len(names)}.'
  )
