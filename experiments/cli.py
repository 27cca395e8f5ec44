"""What every command of `experiments` shares: one clear sentence instead of a traceback."""

import logging as python_logging
import sys
from collections.abc import Callable

from absl import app, flags, logging

_DEBUG = flags.DEFINE_bool('debug', False, 'Show the traceback of errors and more of the log.')

# Libraries that announce each of their steps.
_CHATTY = ('orbax', 'jax', 'grain', 'tensorflow_datasets')


def run(main: Callable[[], None]) -> None:
  """Runs `main()` with the flags parsed.

  Exit code 0: done. 1: the run cannot be carried out as asked. 2: the flags cannot be used.
  """

  def parse(argv: list[str]) -> list[str]:
    try:
      return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
      field = str(error).strip('"\'')
      return _fail(f'the config has no field {field!r}: configs/base.py lists all fields.', 2)
    except (ImportError, OSError, SyntaxError, TypeError, ValueError) as error:
      return _fail(f'the config cannot be loaded: {_one_line(error)}', 2)

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      _fail(f'unexpected argument {argv[1]!r}: options are written --name=value.', 2)
    if not _DEBUG.value:
      logging.set_verbosity(logging.WARNING)
      # Orbax logs what it raises as well, with tracebacks.
      logging.get_absl_handler().addFilter(lambda record: 'orbax' not in record.pathname)
      for name in _CHATTY:
        python_logging.getLogger(name).setLevel(python_logging.ERROR)
    try:
      main()
    except (ValueError, OSError) as error:
      if _DEBUG.value:
        raise
      _fail(_one_line(error), 1)
    except KeyboardInterrupt:
      _fail('interrupted; the same command goes on from the last checkpoint.', 130)

  app.run(guarded, flags_parser=parse)


def _fail(sentence: str, code: int) -> None:
  print(f'Error: {sentence} (--debug shows more)', file=sys.stderr, flush=True)
  sys.exit(code)


def _one_line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__
