"""Which pictures a run is on: what stays the same when they move to another folder or machine."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.data import sources
from experiments.data.settings import DataSettings

_PARTS = {'train': 'training', 'test': 'test'}
_MOST_NAMED = 3


class Part(NamedTuple):
  """One part of a data set."""

  origin: str  # the source; of a TFDS data set its full name with the version, and the split
  count: int  # pictures
  digest: str  # SHA-256 of the pictures' names with their labels, in hexadecimal


class Identity(NamedTuple):
  """A data set: two that are equal give the same batches, as far as names can tell."""

  class_names: tuple[str, ...]
  train: Part
  test: Part

  def to_json(self) -> dict[str, Any]:
    """Returns it as plain values."""
    parts = {name: getattr(self, name)._asdict() for name in _PARTS}
    return {'class_names': list(self.class_names), **parts}


def identify(train: sources.Source, test: sources.Source) -> Identity:
  """Looks at the names of all pictures."""
  return Identity(tuple(train.class_names), _part(train), _part(test))


def _part(source: sources.Source) -> Part:
  digest = hashlib.sha256()
  for name, label in source.labelled_names():
    digest.update(b'%d %s\0' % (label, os.fsencode(name)))
  return Part(source.origin, len(source), digest.hexdigest())


def picture_names(settings: DataSettings) -> dict[str, list[str]]:
  """Returns 'train' and 'test' -> the names of their pictures, where a source has any."""
  both = zip(_PARTS, sources.open_sources(settings), strict=True)
  return {part: [name for name, _ in source.labelled_names()] for part, source in both}


def differences(
  old: Mapping[str, Any],
  new: Mapping[str, Any],
  old_names: Mapping[str, Sequence[str]],
  new_names: Mapping[str, Sequence[str]],
) -> list[str]:
  """Says in what two data sets differ.

  Args:
    old: `Identity.to_json` of the first.
    new: that of the second.
    old_names: `picture_names` of the first, for the examples; may lack some.
    new_names: those of the second.

  Returns:
    Phrases for a person; none if the data sets are the same.
  """
  if old['class_names'] != new['class_names']:
    gone, added = _without(old['class_names'], new['class_names'])
    phrases = [
      f'{what} {_listed(kinds)}'
      for what, kinds in (('without the class', gone), ('with the new class', added))
      if kinds
    ]
    return phrases or ['with the same classes in another order']
  phrases = []
  for part, title in _PARTS.items():
    a, b = old[part], new[part]
    if a['origin'] != b['origin']:
      phrases.append(f'from {b["origin"]!r} instead of {a["origin"]!r}')
    elif a != b:
      changes = [
        f'{len(names)} {what}, such as {names[0]!r}'
        for what, names in zip(
          ('gone', 'added'), _without(old_names.get(part, ()), new_names.get(part, ())), strict=True
        )
        if names
      ]
      detail = f' ({"; ".join(changes)})' if changes else ' with other names or labels'
      phrases.append(f'{a["count"]} -> {b["count"]} {title} pictures{detail}')
  return phrases


def _without(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
  """What only the first has, and what only the second."""
  return sorted(set(old) - set(new)), sorted(set(new) - set(old))


def _listed(names: Sequence[str]) -> str:
  more = f' and {len(names) - _MOST_NAMED} more' if len(names) > _MOST_NAMED else ''
  return ', '.join(map(repr, names[:_MOST_NAMED])) + more
