"""The command `nfnets`: its list, its sentences, and folders of the user with the same names."""

import ast
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

import nfnets
from nfnets import cli

ROOT = pathlib.Path(__file__).parents[2]
SIGNATURE = 'def main(argv: list[str] | None=None) -> int:'


@pytest.fixture
def run(monkeypatch, capsys):
  """(*arguments) -> (exit code, output, errors), in this process."""
  monkeypatch.setattr(sys, 'path', [*sys.path])
  monkeypatch.setattr(sys, 'argv', ['pytest'])

  def call(*arguments):
    return cli.main(list(arguments)), *capsys.readouterr()

  return call


@pytest.fixture
def command(monkeypatch, tmp_path):
  """(source) -> a command `own` of that source."""

  def make(source):
    (tmp_path / 'own_program.py').write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'own_program', raising=False)
    monkeypatch.setitem(cli.COMMANDS, 'own', cli.Command('own_program', 'for a test'))

  return make


@pytest.mark.parametrize('arguments', [(), ('--help',), ('-h',), ('help',)])
def test_the_list_of_commands(run, arguments):
  code, output, _ = run(*arguments)
  assert code == 0
  for name in ('train', 'evaluate', 'predict', 'export', 'convert', 'show-batch', 'plan-pod'):
    assert f'\n  {name} ' in output
  assert max(map(len, output.splitlines())) <= 80
  assert run('--version')[:2] == (0, f'nfnets {nfnets.__version__}\n')


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [
    ('trian', "Error: nfnets has no command 'trian': did you mean 'train'?\n"),
    ('show_batch', "Error: nfnets has no command 'show_batch': did you mean 'show-batch'?\n"),
    ('xyz', "Error: nfnets has no command 'xyz': there are train, evaluate, predict,"),
  ],
)
def test_an_unknown_command(run, name, sentence):
  code, output, errors = run(name)
  assert (code, output) == (2, '')
  assert errors.startswith(sentence)


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_command_is_a_program_with_the_same_main(name):
  module = cli.COMMANDS[name].module
  path = (ROOT / module.replace('.', '/')).with_suffix('.py')
  assert f'{SIGNATURE}\n' in ast.unparse(ast.parse(path.read_text()))


def test_arguments_and_exit_code_are_the_programs(run, command):
  command('import sys\ndef main(argv):\n  print(sys.argv, argv)\n  return 7')
  code, output, _ = run('own', '--one', 'two')
  assert (code, output) == (7, "['nfnets own', '--one', 'two'] ['--one', 'two']\n")


def test_a_package_that_is_missing_is_named_with_its_command(run, command):
  command('import nothing_of_this_name')
  code, _, errors = run('own')
  assert code == 1
  assert errors.startswith('Error: nfnets own needs the package nothing_of_this_name: ')
  assert errors.endswith("[train]'\n")
  command('import nfnets.nothing_of_this_name')  # a fault of ours is none of the installation
  with pytest.raises(ModuleNotFoundError):
    run('own')


def test_ctrl_c_is_one_line(run, command):
  command('def main(argv):\n  raise KeyboardInterrupt')
  assert run('own') == (130, '', 'Error: interrupted.\n')


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('train', '--help'), 'nfnets train --config=digits'),
    (('predict', '--help'), 'usage: nfnets predict '),
    (('show-batch', '--config=digits', '--out=b.png', '--count=1'), 'of digits is drawn in b.png'),
  ],
)
def test_folders_of_a_user_with_names_of_ours(tmp_path, arguments, sentence):
  for name in ('configs', 'experiments', 'scripts'):
    (tmp_path / name).mkdir()
    (tmp_path / name / '__init__.py').write_text('raise RuntimeError')
  done = subprocess.run(
    [sys.executable, '-m', 'nfnets', *arguments],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': '.', 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert sentence in done.stdout


def test_names_are_loaded_when_they_are_asked_for():
  program = (
    'import sys, nfnets.cli\n'
    'assert "jax" not in sys.modules\n'
    'assert nfnets.ModelSpec is nfnets.spec.ModelSpec\n'
    'assert nfnets.weights.load_pretrained is nfnets.load_pretrained\n'
  )
  subprocess.run([sys.executable, '-c', program], check=True)


def test_dir_shows_public_names_that_are_there():
  assert set(dir(nfnets)) == {*nfnets.__all__, '__version__'}
  for name in nfnets.__all__:
    assert getattr(nfnets, name) is not None
  with pytest.raises(AttributeError, match="module 'nfnets' has no attribute 'NFNets'"):
    nfnets.NFNets  # noqa: B018
  assert importlib.util.find_spec('nfnets.inference') is not None
