"""The packages as a user gets them: an sdist, its wheel, installed where nothing else is."""

import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile

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


def _run(*command, cwd):
  done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
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
  assert tops == {'nfnets', 'experiments', 'configs'}
  modules = {str(path.relative_to(ROOT)) for path in (ROOT / 'nfnets').rglob('*.py')}
  assert modules <= set(names)
  page = ('icon.svg', 'page.css', 'page.html', 'page.js')
  assert {f'nfnets/demo/{name}' for name in page} <= set(names)
  assert any(name.endswith('licenses/LICENSE') for name in names)
  with tarfile.open(sdist) as archive:
    inside = {name.partition('/')[2] for name in archive.getnames()}
  assert {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE'} <= inside


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(packages, tmp_path):
  _, wheel = packages
  python = _make_environment(tmp_path / 'user')
  pip = (python, '-m', 'pip', '--disable-pip-version-check')
  _run(*pip, 'install', '--constraint', ROOT / 'requirements.txt', wheel, cwd=tmp_path)
  printed = _run(python, '-I', '-c', _PROGRAM, cwd=tmp_path)
  assert printed.split() == [nfnets.__version__, '(1,', '5)']
  assert sys.prefix not in printed
