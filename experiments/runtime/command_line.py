"""What every command of `experiments` shares: one clear sentence instead of a traceback."""

import inspect
import logging as python_logging
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from experiments.runtime import config_files, open_files, platforms
from experiments.runtime.errors import ConfigError

_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of errors and more of the log.')
flags.disclaim_key_flags()  # what `define_config` defines is its caller's, as --help lists it

# Libraries that announce each of their steps.
_CHATTY = ('orbax', 'jax', 'grain', 'tensorflow_datasets')

# What the parsers of single values say, and what they wanted.
_WANTED = {
  'invalid literal for int': 'a whole number',
  'Exceeds the limit': 'a whole number',
  'could not convert string to float': 'a number',
  'Non-boolean argument': 'True or False',
  'must have a value other than None': 'given',
  'as a ConfigDict': 'a dictionary in quotes, such as \'{"name": 1}\'',
}

# A flag for the one takes the place of what the recipe says in the other: field -> (the other, what
# that becomes).
_REPLACES = {
  'model.variant': ('model.spec', {}),
  'model.spec': ('model.variant', 'custom'),
}

# What the code of a config, and the flags for its fields, raise.
_CONFIG_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, NameError, OSError,
                  SyntaxError, TypeError, ValueError)  # fmt: skip


def run(main: Callable[[], int | None], argv: list[str] | None = None) -> NoReturn:
  """Runs `main()` with the flags parsed, and ends this process with what it returns; None is 0.

  --help prints the docstring of the module of `main`, and the flags that were defined there.
  Exit code 0: done. 1: the run cannot be carried out as asked. 2: the flags cannot be used.
  128 + n: ended at once by signal n, so 130 for Ctrl-C.

  Args:
    main: the program.
    argv: its arguments; None: those of this process.
  """
  module, docstring = main.__module__, main.__globals__['__doc__']
  main = platforms.explained()(main)

  def parse(argv: list[str]) -> list[str]:
    try:
      remaining = flags.FLAGS(argv)
      if 'config' in flags.FLAGS:
        hasattr(flags.FLAGS['config'].value, 'seed')  # raises what kept the file from being loaded
        _replace_of_recipe(flags.FLAGS['config'].value)
      return remaining
    except flags.Error as error:
      return _fail(flag_problem(error), 2)
    except _CONFIG_ERRORS as error:
      return _fail(_config_problem(error), 2)
    except SystemExit:
      sys.exit(0)  # of absl's own kinds of help

  def guarded(argv: list[str]) -> int | None:
    if len(argv) > 1:
      _fail(f'unexpected argument {argv[1]!r}: options are written --name=value.', 2)
    if not _DEBUG.value:
      logging.set_verbosity(logging.WARNING)
      # Orbax logs what it raises as well, with tracebacks.
      logging.get_absl_handler().addFilter(lambda record: 'orbax' not in record.pathname)
      for name in _CHATTY:
        python_logging.getLogger(name).setLevel(python_logging.ERROR)
    open_files.raise_limit()
    try:
      return main()
    except (ValueError, OSError) as error:
      if _DEBUG.value:
        raise
      return _fail(f'{_one_line(error)} (--debug shows more)', 1)

  arguments = sys.argv[1:] if argv is None else argv
  if {'--help', '-help', '-h'} & set(arguments):
    print(_help(module, docstring))
    sys.exit(0)
  try:
    if 'config' in flags.FLAGS:
      arguments = _with_found_config(arguments)
  except ConfigError as error:
    _fail(str(error), 2)
  sys.argv[1:] = arguments  # where ml_collections looks for the fields that are set
  app.run(guarded, flags_parser=parse)


def define_config(default: str, help_text: str) -> flags.FlagHolder:
  """Defines --config, of which absl reads the default and its fields at once.

  Args:
    default: the name of a recipe, with :ARGUMENT if it takes one.
    help_text: what the program does with the config.
  """
  text = (
    f'{help_text} A recipe of the library ({", ".join(config_files.recipes())}; '
    'nfnet_imagenet:F3 gives it an argument) or a file. --config.FIELD=VALUE sets a field.'
  )
  try:
    holder = config_flags.DEFINE_config_file('config', config_files.find(default), text)
  except _CONFIG_ERRORS as error:
    return _fail(_config_problem(error), 2)
  flags.FLAGS['config'].default_as_str = repr(default)
  return holder


def given_fields(section: str = '') -> frozenset[str]:
  """The fields of a section of the config that flags of the command line give; '': of all."""
  given = config_flags.get_override_values(flags.FLAGS['config'])
  paths = (path.removeprefix('config.') for path in given)
  if not section:
    return frozenset(paths)
  return frozenset(p.removeprefix(f'{section}.') for p in paths if p.startswith(f'{section}.'))


def _replace_of_recipe(config: ConfigDict) -> None:
  """Drops what the recipe says where a flag for another field takes its place."""
  given = config_flags.get_override_values(flags.FLAGS['config'])
  given = [path.removeprefix('config.') for path in given]
  for field, (other, value) in _REPLACES.items():
    section, _, name = other.partition('.')
    own = any(path == field or path.startswith(f'{field}.') for path in given)
    if own and not any(path == other or path.startswith(f'{other}.') for path in given):
      with config.unlocked():
        config[section][name] = value


def with_given_fields(config: ConfigDict) -> ConfigDict:
  """Returns another config than that of --config with the fields that flags give."""
  given = config_flags.get_override_values(flags.FLAGS['config'])
  config.update_from_flattened_dict(
    {path.removeprefix('config.'): value for path, value in given.items()}
  )
  return config


def flag_problem(error: flags.Error) -> str:
  """What is wrong with a flag, from the several forms of the parsers' errors."""
  text = _one_line(error)
  if match := re.match(r'flag --([\w.]+)=(.*?): (.*)', text):
    flag, value, reason = match.groups()
    for part, wanted in _WANTED.items():
      if part in reason:
        return f'--{flag} must be {wanted}, got {value}.'
  fields = config_files.fields()
  return f'{text.rstrip(" ?.")}: --help lists the flags, {fields} the fields of --config.'


def _help(module: str, docstring: str | None) -> str:
  """What a program is for, and its flags."""
  own, common = (
    flags.FLAGS.module_help(name).partition(':\n')[2].rstrip() for name in (module, __name__)
  )
  fields = f'\n\nThe fields of --config are explained in {config_files.fields()}.'
  return (
    f'{inspect.cleandoc(docstring or "")}\n\nFlags:\n{own}\n{common}'
    f'{fields if "config" in flags.FLAGS else ""}\n\n--helpfull lists the flags of all parts.'
  )


def _with_found_config(arguments: list[str]) -> list[str]:
  """The arguments with the file of the recipe that --config names."""
  found = list(arguments)
  for place, argument in enumerate(arguments):
    flag, equals, value = argument.partition('=')
    if flag in ('--config', '-config'):
      if equals:
        found[place] = f'{flag}={config_files.find(value)}'
      elif place + 1 < len(found):
        found[place + 1] = config_files.find(arguments[place + 1])
  return found


def _fail(sentence: str, code: int) -> NoReturn:
  print(f'Error: {sentence}', file=sys.stderr, flush=True)
  sys.exit(code)


def _config_problem(error: BaseException) -> str:
  """What is wrong with --config or a field of it, from the several forms of the flags' errors."""
  while error.args and isinstance(error.args[0], BaseException):
    error = error.args[0]
  text = str(error.args[0]) if error.args else ''
  if "no attribute 'get_config'" in text:
    return f'the config file has no function get_config(): {config_files.fields()} shows one.'
  if match := re.match(r"'(\w+)'(?:\nDid you mean \"(\w+)\")?", text):
    meant = f' Did you mean {match[2]!r}?' if match[2] else ''
    fields = config_files.fields()
    return f'the config has no field {match[1]!r}: {fields} lists all fields.{meant}'
  return f'the config cannot be loaded: {_one_line(error)}'


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
