"""What every command of `experiments` shares: one clear sentence instead of a traceback."""

import logging as python_logging
import re
import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from experiments.runtime import open_files, platforms

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

# What the code of a config, and the flags for its fields, raise.
_CONFIG_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, NameError, OSError,
                  SyntaxError, TypeError, ValueError)  # fmt: skip


def run(main: Callable[[], int | None]) -> None:
  """Runs `main()` with the flags parsed; what it returns is the exit code, None is 0.

  Exit code 0: done. 1: the run cannot be carried out as asked. 2: the flags cannot be used.
  128 + n: ended at once by signal n, so 130 for Ctrl-C.
  """
  main = platforms.explained()(main)

  def parse(argv: list[str]) -> list[str]:
    try:
      remaining = flags.FLAGS(argv)
      if 'config' in flags.FLAGS:
        hasattr(flags.FLAGS['config'].value, 'seed')  # raises what kept the file from being loaded
      return remaining
    except flags.Error as error:
      return _fail(flag_problem(error), 2)
    except _CONFIG_ERRORS as error:
      return _fail(_config_problem(error), 2)

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
    except KeyboardInterrupt:  # of a script, which does not listen from its start
      return _fail('interrupted.', 130)

  app.run(guarded, flags_parser=parse)


def define_config(default: str, help_text: str) -> flags.FlagHolder:
  """Defines --config, of which absl reads the default file and its fields at once."""
  try:
    return config_flags.DEFINE_config_file('config', default, help_text)
  except _CONFIG_ERRORS as error:
    return _fail(_config_problem(error), 2)


def given_fields(section: str) -> frozenset[str]:
  """The fields of a section of the config that flags of the command line give."""
  given = config_flags.get_override_values(flags.FLAGS['config'])
  paths = (path.removeprefix('config.') for path in given)
  return frozenset(p.removeprefix(f'{section}.') for p in paths if p.startswith(f'{section}.'))


def flag_problem(error: flags.Error) -> str:
  """What is wrong with a flag, from the several forms of the parsers' errors."""
  text = _one_line(error)
  if match := re.match(r'flag --([\w.]+)=(.*?): (.*)', text):
    flag, value, reason = match.groups()
    for part, wanted in _WANTED.items():
      if part in reason:
        return f'--{flag} must be {wanted}, got {value}.'
  return f'{text.rstrip(" ?.")}: --help lists the flags, configs/base.py the fields of --config.'


def _fail(sentence: str, code: int) -> None:
  print(f'Error: {sentence}', file=sys.stderr, flush=True)
  sys.exit(code)


def _config_problem(error: BaseException) -> str:
  """What is wrong with --config or a field of it, from the several forms of the flags' errors."""
  while error.args and isinstance(error.args[0], BaseException):
    error = error.args[0]
  text = str(error.args[0]) if error.args else ''
  if match := re.search(r"Attempted \[.*No such file or directory: '(.*)'", text, re.DOTALL):
    return f'there is no config file {match[1]}: those that come with the project are in configs/.'
  if "no attribute 'get_config'" in text:
    return 'the config file has no function get_config(): configs/base.py shows one.'
  if match := re.match(r"'(\w+)'(?:\nDid you mean \"(\w+)\")?", text):
    meant = f' Did you mean {match[2]!r}?' if match[2] else ''
    return f'the config has no field {match[1]!r}: configs/base.py lists all fields.{meant}'
  return f'the config cannot be loaded: {_one_line(error)}'


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
