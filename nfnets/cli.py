"""The command `nfnets`: the programs of this library under one name, from any folder.

Uses only the standard library, so that it responds at once; a program is loaded when it is run.
"""

import difflib
import importlib
import pathlib
import sys
from typing import NamedTuple

import nfnets
from nfnets import installation, interruption


class Command(NamedTuple):
  """A program with a function `main(argv)`, which returns the exit code."""

  module: str
  summary: str


COMMANDS = {
  'train': Command('experiments.train', 'train a network or fine-tune a released one'),
  'evaluate': Command('experiments.evaluate', 'measure the accuracy of weights on a test set'),
  'predict': Command('scripts.predict', 'label pictures'),
  'embed-audio': Command('scripts.embed_audio', 'turn a folder of sounds into vectors'),
  'webcam': Command('scripts.webcam', 'label what a camera or a video shows'),
  'demo': Command('nfnets.demo.__main__', 'try a network in the browser'),
  'export': Command('scripts.export', 'write a network for ONNX, StableHLO or TensorFlow'),
  'convert': Command('scripts.convert', "convert weights of the published code and timm's"),
  'show-batch': Command('scripts.show_batch', 'draw the pictures that a training step gets'),
  'compare-runs': Command('scripts.compare_runs', 'draw the curves of several runs together'),
  'plot-signal': Command('scripts.plot_signal', 'check the signal in a network, and draw it'),
  'pack-folder': Command('scripts.pack_folder', 'pack a folder of pictures into one file'),
  'prepare-tfds': Command('scripts.prepare_tfds', 'prepare ImageNet or another TFDS data set'),
  'plan-pod': Command('scripts.plan_pod', 'say whether a run fits a TPU pod and what it takes'),
  'benchmark': Command('scripts.benchmark', 'measure speed and memory'),
}


def main(argv: list[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: its name and arguments; None: those of this process.

  Returns:
    The exit code: 2 if there is no such command, else the program's.
  """
  name, *arguments = (sys.argv[1:] if argv is None else argv) or ['--help']
  if name in ('-h', '--help', 'help'):
    print(_overview())
    return 0
  if name == '--version':
    print(f'nfnets {nfnets.__version__}')
    return 0
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f'did you mean {close[0]!r}?' if close else f'there are {", ".join(COMMANDS)}.'
    print(f'Error: nfnets has no command {name!r}: {hint}', file=sys.stderr)
    return 2
  if argv is None:
    interruption.listen()
  sys.path.insert(0, str(programs()))
  sys.argv = [f'nfnets {name}', *arguments]  # programs say how they were called
  try:
    return importlib.import_module(COMMANDS[name].module).main(arguments)
  except ModuleNotFoundError as error:
    if (error.name or '').split('.')[0] in ('nfnets', 'experiments', 'configs', 'scripts'):
      raise
    needed = installation.command('train')
    print(f'Error: nfnets {name} needs the package {error.name}: {needed}', file=sys.stderr)
    return 1
  except KeyboardInterrupt:  # where this process does not listen
    print('Error: interrupted.', file=sys.stderr)
    return 130


def programs() -> pathlib.Path:
  """Returns the folder of the packages `experiments`, `configs` and `scripts`.

  A wheel keeps them in a separate folder, because their names might clash with other packages. Only
  the programs have it on their path, before a user's own folders of these names.
  """
  root = pathlib.Path(__file__).parents[1]
  installed = root / 'nfnets_programs'
  return installed if installed.is_dir() else root


def _overview() -> str:
  width = max(map(len, COMMANDS))
  lines = [f'  {name:{width}}  {command.summary}' for name, command in COMMANDS.items()]
  return '\n'.join(
    [
      'usage: nfnets COMMAND ...',
      '',
      'Normalizer-free networks in JAX and Haiku. Commands:',
      '',
      *lines,
      '',
      '`nfnets COMMAND --help` says what a command takes; --version prints the version.',
    ]
  )
