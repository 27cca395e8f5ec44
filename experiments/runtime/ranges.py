"""What the fields of a config may be: rows of a table, and the one check that names the flag."""

import dataclasses
import difflib
import numbers
from collections.abc import Mapping
from typing import Any, Protocol

from ml_collections import ConfigDict

from experiments.runtime import config_files
from experiments.runtime.errors import ConfigError

_FEW = 12  # choices that a sentence can list


class Row(Protocol):
  """What one field may be."""

  def accepts(self, value: Any) -> bool:
    """Whether a run can use the value."""

  def allowed(self) -> str:
    """The same in words, to go on from 'must be'."""


@dataclasses.dataclass(frozen=True)
class Number:
  """A finite number between two bounds, or a whole one.

  Attributes:
    low: the smallest, itself allowed unless `above`.
    high: the greatest, itself allowed unless `below`.
    note: what some of the values mean.
  """

  low: float
  high: float
  _: dataclasses.KW_ONLY
  above: bool = False
  below: bool = False
  whole: bool = False
  note: str = ''

  def accepts(self, value: Any) -> bool:
    kind = numbers.Integral if self.whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
      return False
    # Compared before any conversion, so that integers too large for a float are refused as well.
    return (self.low < value if self.above else self.low <= value) and (
      value < self.high if self.below else value <= self.high
    )

  def allowed(self) -> str:
    kind = 'a whole number' if self.whole else 'a number'
    low = f'above {self.low:,}' if self.above else f'from {self.low:,}'
    high = f'and below {self.high:,}' if self.below else f'to {self.high:,}'
    high = f'and at most {self.high:,}' if self.above and not self.below else high
    note = f' ({self.note})' if self.note else ''
    return f'{kind} {low} {high}{note}'


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some values, which are words or tuples of words."""

  choices: tuple[Any, ...]

  def accepts(self, value: Any) -> bool:
    return (tuple(value) if isinstance(value, list) else value) in self.choices

  def allowed(self) -> str:
    return f'one of {", ".join(map(repr, self.choices))}'


@dataclasses.dataclass(frozen=True)
class Switch:
  """True or False."""

  def accepts(self, value: Any) -> bool:
    return isinstance(value, bool)

  def allowed(self) -> str:
    return 'True or False'


@dataclasses.dataclass(frozen=True)
class Text:
  """Words that the field's reader understands or refuses: a path, a name."""

  def accepts(self, value: Any) -> bool:
    return isinstance(value, str)

  def allowed(self) -> str:
    return 'text'


@dataclasses.dataclass(frozen=True)
class Pair:
  """Two numbers, the smaller first."""

  item: Number

  def accepts(self, value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
      return False
    return all(map(self.item.accepts, value)) and value[0] <= value[1]

  def allowed(self) -> str:
    return f'a pair (least, greatest), each {self.item.allowed()}'


@dataclasses.dataclass(frozen=True)
class Channels:
  """Three numbers, of red, green and blue."""

  item: Number

  def accepts(self, value: Any) -> bool:
    is_triple = isinstance(value, tuple | list) and len(value) == 3
    return is_triple and all(map(self.item.accepts, value))

  def allowed(self) -> str:
    return f'three numbers (red, green, blue), each {self.item.allowed()}'


@dataclasses.dataclass(frozen=True)
class Several:
  """A tuple of any length."""

  item: Row

  def accepts(self, value: Any) -> bool:
    return isinstance(value, tuple | list) and all(map(self.item.accepts, value))

  def allowed(self) -> str:
    return f'a tuple, such as (), of which each entry is {self.item.allowed()}'


@dataclasses.dataclass(frozen=True)
class Named:
  """A dictionary with names of its user's own; None: of any values."""

  item: Row | None = None

  def accepts(self, value: Any) -> bool:
    if not isinstance(value, Mapping | ConfigDict):
      return False
    return self.item is None or all(self.item.accepts(value[name]) for name in value)

  def allowed(self) -> str:
    entries = '' if self.item is None else f' whose values are each {self.item.allowed()}'
    return f'a dictionary{entries}'


@dataclasses.dataclass(frozen=True)
class OrNone:
  """What the row says, or None: derived when the run starts."""

  row: Row

  def accepts(self, value: Any) -> bool:
    return value is None or self.row.accepts(value)

  def allowed(self) -> str:
    return f'{self.row.allowed()}, or None'


def check(config: ConfigDict, table: Mapping[str, Row], section: str = '') -> None:
  """Checks all fields of a config against their rows, each by itself.

  Args:
    config: the whole config, or one section of it.
    table: path of a field below `config`, with dots -> its row.
    section: path of `config` with a dot at its end; '' is the whole.

  Raises:
    ConfigError: a field has a value that no run can use, is missing, or is no field; the sentence
      names its flag and says what is allowed.
  """
  values = dict(_leaves(config, table, section))
  for path in values:
    if path not in table:
      raise ConfigError(
        f'{_flag(section, path)} is no field: {config_files.fields()} lists all fields.'
        f'{_did_you_mean(path, tuple(table))}'
      )
  for path, row in table.items():
    flag = _flag(section, path)
    if path not in values:
      raise ConfigError(f'{flag} is missing: {config_files.fields()} lists all fields.')
    if not row.accepts(values[path]):
      raise ConfigError(
        f'{flag} must be {row.allowed()}, got {_shown(values[path])}.{_hint(row, values[path])}'
      )


def _leaves(config: ConfigDict, table: Mapping[str, Row], section: str, path: str = ''):
  """Yields (path, value) of every field; what has a row is not looked into."""
  for name in config:
    inner, value = f'{path}{name}', config[name]
    if inner in table or not any(row.startswith(f'{inner}.') for row in table):
      yield inner, value
    elif isinstance(value, ConfigDict):
      yield from _leaves(value, table, section, f'{inner}.')
    else:
      raise ConfigError(
        f'{_flag(section, inner)} must be a section of fields, as in '
        f'{config_files.fields()}, got {_shown(value)}.'
      )


def _flag(section: str, path: str) -> str:
  return f'--config.{section}{path}'


def _shown(value: Any) -> str:
  text = ' '.join(repr(value).split())
  return text if len(text) <= 80 else f'{text[:77]}...'


def _hint(row: Row, value: Any) -> str:
  choices = getattr(getattr(row, 'row', row), 'choices', ())
  return _did_you_mean(value, choices) if isinstance(value, str) else ''


def _did_you_mean(word: str, words: tuple[Any, ...]) -> str:
  close = difflib.get_close_matches(word, [w for w in words if isinstance(w, str)], n=1)
  return f' Did you mean {close[0]!r}?' if close else ''
