"""scripts/setup.sh with an interpreter that only notes what it is asked to install."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = f"""#!/bin/sh
case "$*" in
  *'version_info <'*) exit 0 ;;
  *'%d.%d'*) echo 3.13 ;;
  --version) echo Python 3.13.9 ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *gpu_extra*) exec '{sys.executable}' "$@" ;;
  '-m pip install'*) echo "$@" >>pip.log ;;
  *) exit 1 ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
  """(**variables) -> (finished process, what was installed), in a copy of the repository."""
  for name in ('scripts/setup.sh', 'nfnets/installation.py', 'setup.py', 'requirements.txt'):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    shutil.copy(ROOT / name, tmp_path / name)
  programs = tmp_path / 'programs'
  programs.mkdir()
  for name, text in (('python3.13', PYTHON), ('nvidia-smi', '#!/bin/sh\necho "$GPU"\n')):
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)

  def run(**variables):
    (tmp_path / 'pip.log').unlink(missing_ok=True)
    inherited = {key: value for key, value in os.environ.items() if key != 'NFNETS_PYTHON'}
    path = f'{programs}{os.pathsep}{os.environ["PATH"]}'
    done = subprocess.run(
      ['bash', '-c', 'source scripts/setup.sh && command -v python'],
      cwd=tmp_path,
      env={**inherited, 'PATH': path, 'GPU': '', **variables},
      capture_output=True,
      text=True,
      check=False,
    )
    log = tmp_path / 'pip.log'
    return done, log.read_text() if log.exists() else ''

  return run


def test_it_installs_once_into_dot_venv(set_up, tmp_path):
  done, installed = set_up()
  assert done.stdout.strip() == f'{tmp_path}/.venv/bin/python'
  assert installed.endswith('--editable .[dev]\n')
  assert set_up()[1] == ''


def test_another_python_has_an_environment_of_its_own(set_up, tmp_path):
  set_up()
  done, installed = set_up(NFNETS_PYTHON='python3.13')
  assert done.stdout.strip() == f'{tmp_path}/.venv-3.13/bin/python'
  assert installed.endswith('--editable .[dev]\n')
  assert (tmp_path / '.venv').exists()


@pytest.mark.parametrize(('gpu', 'extra'), [('580.1, 9.0', 'gpu'), ('550.1, 9.0', 'gpu12')])
def test_the_jax_of_a_gpu_is_installed(set_up, gpu, extra):
  set_up()
  done, installed = set_up(GPU=gpu)
  assert installed.endswith(f'--editable .[dev,{extra}]\n')
  assert 'JAX for the GPU of this machine' in done.stderr


def test_an_interpreter_that_is_not_there(set_up):
  done, installed = set_up(NFNETS_PYTHON='python-of-nobody')
  assert done.returncode == 1
  assert done.stderr == 'Error: NFNETS_PYTHON=python-of-nobody is no Python 3.11 or newer.\n'
  assert installed == ''
