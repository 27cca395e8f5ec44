"""What messages say to install: commands that work where the library is, extras that exist."""

import importlib.metadata
import os
import pathlib
import re
import sys

import pytest

from nfnets import installation

ROOT = pathlib.Path(__file__).parents[2]
EXTRAS = set(importlib.metadata.metadata('nfnets').get_all('Provides-Extra'))


def test_the_command_in_a_checkout(monkeypatch, tmp_path):
  (tmp_path / 'setup.py').touch()
  own = tmp_path / '.venv' / 'bin'
  own.mkdir(parents=True)
  (own / 'pip').touch()
  monkeypatch.setattr(installation, '_ROOT', tmp_path)
  monkeypatch.setattr(sys, 'executable', str(own / 'python'))
  monkeypatch.setattr(sys, 'prefix', str(own.parent))
  monkeypatch.delenv('VIRTUAL_ENV', raising=False)
  monkeypatch.chdir(tmp_path)
  assert installation.command('onnx') == ".venv/bin/pip install -e '.[onnx]'"
  monkeypatch.chdir(own)  # from any other folder
  assert installation.command('hub') == f"pip install -e '{tmp_path}[hub]'"
  monkeypatch.chdir(ROOT)
  assert installation.command('hub') == f"{own}/pip install -e '{tmp_path}[hub]'"
  monkeypatch.setenv('VIRTUAL_ENV', str(own.parent))  # the environment is active
  monkeypatch.chdir(tmp_path)
  assert installation.command('onnx') == "pip install -e '.[onnx]'"


def test_the_command_where_the_library_is_installed(monkeypatch, tmp_path):
  monkeypatch.setattr(installation, '_ROOT', tmp_path / 'site-packages')
  monkeypatch.setenv('VIRTUAL_ENV', sys.prefix)
  assert installation.command('gpu12') == "pip install 'nfnets[gpu12]'"


@pytest.mark.parametrize(
  ('said', 'extra'),
  [
    ('580.65.06, 9.0\\n', 'gpu'),
    ('610.1, 7.5\\n', 'gpu'),
    ('535.183.01, 8.0\\n', 'gpu12'),  # an older driver
    ('580.65.06, 7.0\\n', 'gpu12'),  # an older GPU
    ('580.65.06, 9.0\\n580.65.06, 6.1\\n', 'gpu12'),  # beside a newer one
    ('No devices were found\\n', None),
    ('', None),
  ],
)
def test_the_extra_for_a_gpu(monkeypatch, tmp_path, said, extra):
  program = tmp_path / 'nvidia-smi'
  program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
  program.chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
  assert installation.gpu_extra() == extra


def test_no_gpu_where_the_driver_does_not_answer(monkeypatch, tmp_path):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert installation.gpu_extra() is None
  program = tmp_path / 'nvidia-smi'
  program.write_text('#!/bin/sh\necho 580.65.06, 9.0\nexit 9\n')
  program.chmod(0o755)
  assert installation.gpu_extra() is None


def test_every_extra_that_a_message_or_a_page_names_exists():
  sources = [
    path for place in ('nfnets', 'experiments', 'scripts') for path in (ROOT / place).rglob('*.py')
  ]
  named = set()
  for path in sources:
    text = path.read_text()
    named |= set(re.findall(r'installation\.command\([\'"](\w+)', text))
    # The command stands in one place.
    assert 'pip install' not in text or path.name == 'installation.py', path
  assert named >= {'onnx', 'hub', 'tfds', 'tpu', 'train'}
  for path in [*ROOT.glob('*.md'), ROOT / 'mkdocs.yml', *(ROOT / 'docs').rglob('*.md')]:
    for names in re.findall(r"'(?:nfnets|\.)\[([\w,]+)\]", path.read_text()):
      named |= set(names.split(','))
  assert named >= {'gpu', 'docs'}
  assert named <= EXTRAS
