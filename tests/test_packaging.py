"""The packages as a user gets them: an sdist, its wheel, installed where nothing else is."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

import numpy as np
import PIL.Image
import pytest

import nfnets

ROOT = pathlib.Path(__file__).parents[1]
# What is in the repository and of no interest to a build.
_LEFT_OUT = shutil.ignore_patterns(
  '.*', '__pycache__', '*.egg-info', 'build', 'dist', 'docs', 'notebooks', 'runs', 'tests'
)

# Runs where only the wheel and its requirements are installed.
_PROGRAM = """
import importlib.metadata
import pathlib
import sys

import haiku as hk
import jax

import nfnets
from nfnets import deploy, labels, signal_propagation, weights

assert pathlib.Path(nfnets.__file__).is_relative_to(sys.prefix), nfnets.__file__
assert importlib.metadata.version('nfnets') == nfnets.__version__
assert len(set(labels.imagenet())) == 1000
spec = nfnets.ModelSpec(width=(16, 16), depth=(1, 1), stride=(1, 2), group_width=8)
network = hk.without_apply_rng(hk.transform(lambda x: nfnets.NFNet(5, spec)(x, False)['logits']))
images = jax.numpy.ones((1, 16, 16, 3))
params = network.init(jax.random.key(0), images)
print(nfnets.__version__, network.apply(params, images).shape)
"""


# Short, and with processes that read the pictures.
_TRAIN = ('--config=digits', '--config.num_epochs=0.2', '--config.data.num_workers=1')


def _run(*command, cwd, **variables):
  environment = {key: value for key, value in os.environ.items() if key != 'VIRTUAL_ENV'}
  environment |= {'PIP_CONSTRAINT': str(ROOT / 'requirements.txt'), **variables}
  done = subprocess.run(
    command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, f'{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}'
  return done.stdout


def _make_environment(path):
  venv.create(path, with_pip=True)
  return path / 'bin' / 'python'


@pytest.fixture(scope='module')
def packages(tmp_path_factory):
  """The paths of an sdist and of the wheel that is built from it."""
  place = tmp_path_factory.mktemp('packages')
  shutil.copytree(ROOT, place / 'source', ignore=_LEFT_OUT)
  builder = _make_environment(place / 'builder')
  needed = tomllib.loads((ROOT / 'pyproject.toml').read_text())['build-system']['requires']
  pip = (str(builder), '-m', 'pip', '--disable-pip-version-check')
  reached = subprocess.run(
    [*pip, 'install', *needed], cwd=place, capture_output=True, text=True, check=False
  )
  if reached.returncode:
    pytest.skip(f'no package index can be reached: {reached.stderr[-300:]}')
  build = 'from setuptools import build_meta; build_meta.build_sdist("..")'
  _run(builder, '-c', build, cwd=place / 'source')
  (sdist,) = place.glob('*.tar.gz')
  _run(*pip, 'wheel', '--no-deps', '--wheel-dir', place, sdist, cwd=place)
  (wheel,) = place.glob('*.whl')
  return sdist, wheel


def test_the_version_stands_in_one_place():
  assert re.fullmatch(r'\d+\.\d+\.\d+', nfnets.__version__)
  texts = [ROOT / 'setup.py', ROOT / 'pyproject.toml', ROOT / 'CITATION.cff']
  assert not [path for path in texts if nfnets.__version__ in path.read_text()]
  changes = (ROOT / 'CHANGELOG.md').read_text()
  assert f'## [{nfnets.__version__}]' in changes


@pytest.mark.slow
def test_packages_hold_the_library_and_nothing_else(packages):
  sdist, wheel = packages
  names = zipfile.ZipFile(wheel).namelist()
  assert 'nfnets/imagenet_classes.txt' in names
  tops = {name.partition('/')[0] for name in names if '.dist-info' not in name}
  assert tops == {'nfnets', 'nfnets_programs'}
  for package, place in (
    ('nfnets', ''),
    ('experiments', 'nfnets_programs/'),
    ('configs', 'nfnets_programs/'),
    ('scripts', 'nfnets_programs/'),
  ):
    modules = {f'{place}{path.relative_to(ROOT)}' for path in (ROOT / package).rglob('*.py')}
    assert modules <= set(names)
  page = ('icon.svg', 'page.css', 'page.html', 'page.js')
  assert {f'nfnets/demo/{name}' for name in page} <= set(names)
  assert any(name.endswith('licenses/LICENSE') for name in names)
  with tarfile.open(sdist) as archive:
    inside = {name.partition('/')[2] for name in archive.getnames()}
  assert {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= inside


@pytest.fixture(scope='module')
def user(packages, tmp_path_factory):
  """(python, folder) of a user: the wheel alone is installed, and folders have names of ours."""
  _, wheel = packages
  place = tmp_path_factory.mktemp('user')
  python = _make_environment(place / 'environment')
  folder = place / 'folder'
  for name in ('configs', 'experiments', 'scripts'):
    (folder / name).mkdir(parents=True)
    (folder / name / '__init__.py').write_text('raise RuntimeError("of the user")')
  _run(python, '-m', 'pip', '--disable-pip-version-check', 'install', wheel, cwd=place)
  return python, folder


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(user):
  python, folder = user
  printed = _run(python, '-I', '-c', _PROGRAM, cwd=folder)
  assert printed.split() == [nfnets.__version__, '(1,', '5)']
  assert sys.prefix not in printed


@pytest.mark.slow
def test_the_command_trains_and_predicts_beside_folders_with_names_of_ours(user):
  python, folder = user
  command = python.with_name('nfnets')
  for name in ('predict', 'export', 'convert', 'webcam'):  # these need no extra
    assert f'usage: nfnets {name} ' in _run(command, name, '--help', cwd=folder)
  missing = subprocess.run([command, 'train'], cwd=folder, capture_output=True, text=True)
  assert missing.returncode == 1
  (sentence,) = missing.stderr.splitlines()
  _run('sh', '-c', sentence.partition(': ')[2].partition(': ')[2], cwd=folder)  # as it says
  here = {'PYTHONPATH': '.', 'JAX_PLATFORMS': 'cpu'}
  printed = _run(command, 'train', *_TRAIN, '--workdir=run', cwd=folder, **here)
  assert 'Done: test top-1' in printed
  PIL.Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / 'black.png')
  weights_file = ('--weights', 'run/ema_weights.safetensors')
  printed = _run(command, 'predict', 'black.png', *weights_file, '--top=1', cwd=folder, **here)
  assert re.fullmatch(r'black\.png\n +[\d.]+%  \d \(\d\)\n', printed)
  printed = _run(command, 'plan-pod', '--help', cwd=folder, **here)
  assert 'nfnets plan-pod' in printed
  failed = subprocess.run([python, '-c', 'import experiments'], cwd=folder, capture_output=True)
  assert b'of the user' in failed.stderr


@pytest.mark.slow
def test_a_type_checker_finds_no_fault_in_the_code_of_the_pages(user, tmp_path):
  python, _ = user
  _run(python, '-m', 'pip', '--disable-pip-version-check', 'install', 'mypy', 'optax', cwd=tmp_path)
  pages = [ROOT / 'README.md', *(ROOT / 'docs').rglob('*.md')]
  for number, page in enumerate(pages):
    if blocks := re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL):
      (tmp_path / f'{page.stem}_{number}.py').write_text('\n'.join(blocks))
  assert len(list(tmp_path.glob('*.py'))) > 5
  # Optax says nothing of its types.
  mypy = (python, '-m', 'mypy', '--check-untyped-defs', '--disable-error-code=import-untyped')
  assert 'Success: no issues found' in _run(*mypy, '.', cwd=tmp_path)
  (tmp_path / 'wrong.py').write_text('import nfnets\n\nnfnets.NFNets\n')
  seen = subprocess.run([*mypy, 'wrong.py'], cwd=tmp_path, capture_output=True, text=True)
  assert 'Module has no attribute "NFNets"' in seen.stdout
