"""What every command of `experiments` shares: one clear sentence instead of a traceback."""

import logging as python_logging
import re
import sys
from collections.abc import Callable

from absl import app, flags, logging

from experiments.runtime import open_files

_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of errors and more of the log.')

# Libraries that announce each of their steps.
_CHATTY = ('orbax', 'jax', 'grain', 'tensorflow_datasets')

# What the code of a config, and the flags for its fields, raise.
_CONFIG_ERRORS = (ArithmeticError, AttributeError, ImportError, LookupError, NameError, OSError,
                  SyntaxError, TypeError, ValueError)  # fmt: skip


def run(main: Callable[[], int | None]) -> None:
  """Runs `main()` with the flags parsed; what it returns is the exit code, None is 0.

  Exit code 0: done. 1: the run cannot be carried out as asked. 2: the flags cannot be used.
  128 + n: ended at once by signal n, so 130 for Ctrl-C.
  """

  def parse(argv: list[str]) -> list[str]:
    try:
      remaining = app.parse_flags_with_usage(argv)
      if 'config' in flags.FLAGS:
        hasattr(flags.FLAGS['config'].value, 'seed')  # raises what kept the file from being loaded
      return remaining
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
