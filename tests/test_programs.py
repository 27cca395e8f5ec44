"""What all programs have in common: --help, and that no output is written over an input."""

import importlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from nfnets import cli

ROOT = pathlib.Path(__file__).parents[1]
OF_ABSL = ('train', 'evaluate', 'show-batch', 'plan-pod')


@pytest.mark.parametrize('name', OF_ABSL)
def test_help_lists_debug_and_is_no_error(name):
  done = subprocess.run(
    [sys.executable, '-m', 'nfnets', name, '--help'],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert '--[no]debug' in done.stdout
  assert '--config' in done.stdout


@pytest.mark.parametrize(
  'module',
  [command.module for name, command in cli.COMMANDS.items() if name not in OF_ABSL]
  + ['scripts.agc_stability', 'scripts.transfer_digits', 'scripts.benchmark_input']
  + ['scripts.plot_accuracy', 'scripts.private_digits', 'scripts.benchmark_private']
  + ['scripts.fashion_mnist', 'scripts.reproduce'],
)
def test_help_is_no_error(module, capsys):
  with pytest.raises(SystemExit) as error:
    importlib.import_module(module).main(['--help'])
  assert error.value.code == 0
  assert capsys.readouterr().out.startswith('usage: ')


@pytest.mark.parametrize(
  ('module', 'arguments'),
  [
    ('scripts.benchmark', ['mine.json', '--out', 'mine.json']),
    ('scripts.benchmark', ['F0', '--out', 'mine.json', '--markdown', './mine.json']),
    ('scripts.benchmark', ['--compare', 'a.json', 'mine.json', '--chart', 'mine.png']),
    ('scripts.convert', ['mine.safetensors', 'mine.safetensors']),
    ('scripts.export', ['mine.safetensors', 'mine.safetensors']),
    ('scripts.export', ['mine', 'mine']),
    ('scripts.plot_signal', ['--weights', 'mine.png', '--out', 'mine.png']),
    ('scripts.plot_signal', ['--weights', 'mine.json', '--out', 'mine.png']),
    ('scripts.predict', ['mine.png', '--sheet', 'mine.png']),
    ('scripts.predict', ['.', '--sheet', 'mine.png']),
    ('scripts.webcam', ['--source', 'mine.mp4', '--out', 'mine.mp4']),
    ('scripts.agc_stability', ['--out', 'mine.png']),
    ('scripts.pack_folder', ['.', 'mine']),
  ],
  ids=lambda value: value if isinstance(value, str) else ' '.join(value),
)
def test_what_is_there_is_not_written_over(tmp_path, monkeypatch, capsys, module, arguments):
  monkeypatch.chdir(tmp_path)
  for name in ('mine', 'mine.json', 'mine.safetensors', 'mine.png', 'mine.mp4'):
    pathlib.Path(name).write_text(json.dumps({'name': name}))
  if '--compare' in arguments:
    pathlib.Path('mine.png').unlink()
    pathlib.Path('mine.png').symlink_to('mine.json')
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  try:
    code = importlib.import_module(module).main(arguments)
  except SystemExit as error:
    code = error.code
  except ValueError as error:  # which the script prints where it is started
    code = f'Error: {error}'
  assert code, capsys.readouterr()
  assert 'mine' in f'{code}{capsys.readouterr().err}'
  assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
