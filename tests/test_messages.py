"""What is said of a config names flags, as one types them: --config.data.dir, and not data.dir."""

import ast
import pathlib
import re

import pytest

from experiments.training.settings.ranges import FIELDS

ROOT = pathlib.Path(__file__).parents[1]
# Names of the library's own arguments are also those of fields.
_PATHS = {path for path in FIELDS if '.' in path}
_NAMES = {path.rpartition('.')[2] for path in FIELDS if '_' in path.rpartition('.')[2]}


def sentences(path):
  """(line, text) of each string of several words that is no docstring; {} for what is filled in."""
  tree = ast.parse(path.read_text())
  inner = {
    id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
  }
  inner |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
  for node in ast.walk(tree):
    if id(node) in inner:
      continue
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      text = node.value
    elif isinstance(node, ast.JoinedStr):
      text = ''.join(p.value if isinstance(p, ast.Constant) else '{}' for p in node.values)
    else:
      continue
    if ' ' in text.strip():
      yield node.lineno, text


def bare_fields(text, names):
  """The names of fields in a text that are not part of a flag."""
  return [word for word in re.findall(r'(?<![\w.-])[a-z]\w*(?:\.\w+)*', text) if word in names]


@pytest.mark.parametrize('package', ['experiments', 'scripts', 'nfnets'])
def test_fields_are_named_as_flags(package):
  # The library's arguments have some of the names: num_classes.
  names = _PATHS if package == 'nfnets' else _PATHS | _NAMES
  found = [
    f'{path.relative_to(ROOT)}:{line}: {word}'
    for path in sorted((ROOT / package).rglob('*.py'))
    for line, text in sentences(path)
    for word in bare_fields(text, names)
  ]
  assert not found


def test_the_search_finds_what_it_is_for(tmp_path):
  path = tmp_path / 'module.py'
  path.write_text(
    '"""Docstrings may say data.dir."""\n'
    'raise ValueError(f"{x} is no folder: set data.dir to one, "\n'
    '                 "or --config.data.source=digits (num_workers=0)")\n'
  )
  found = [bare_fields(text, _PATHS | _NAMES) for _, text in sentences(path)]
  assert found == [['data.dir', 'num_workers']]
