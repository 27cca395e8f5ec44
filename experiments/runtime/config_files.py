"""Configs: a recipe that comes with the library by its name, or a file."""

import difflib
import pathlib

from experiments.runtime.errors import ConfigError

_FOLDER = pathlib.Path(__file__).parents[2] / 'configs'


def recipes() -> list[str]:
  """Returns the names of the recipes that come with the library."""
  return sorted(path.stem for path in _FOLDER.glob('*.py') if path.stem not in ('__init__', 'base'))


def fields() -> str:
  """Returns the file that explains all fields, as one types its path here."""
  path, here = _FOLDER / 'base.py', pathlib.Path.cwd()
  return str(path.relative_to(here) if path.is_relative_to(here) else path)


def find(text: str) -> str:
  """Returns a config as ml_collections takes it: the path of a file, with :ARGUMENT if it had one.

  Args:
    text: a path, or the name of a recipe, such as 'digits' or 'nfnet_imagenet:F0'.

  Raises:
    ConfigError: there is neither.
  """
  name, colon, argument = text.partition(':')
  if name in recipes():
    return f'{_FOLDER / name}.py{colon}{argument}'
  if pathlib.Path(name).is_file():
    return text
  close = difflib.get_close_matches(pathlib.Path(name).stem, recipes(), 1)
  meant = f' Did you mean --config={close[0]}?' if close else ''
  raise ConfigError(
    f'there is no config file {name}: those that come with the library are {", ".join(recipes())}.'
    f'{meant}'
  )
