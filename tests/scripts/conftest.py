"""Scripts as their users run them, with small weights and small pictures."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import nfnets
from nfnets import weights, zoo

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='session')
def weights_file(tmp_path_factory):
  """A file of `weights.save` with a network for 24 px and the classes red, green, blue."""
  spec = nfnets.ModelSpec(
    width=(16,),
    depth=(1,),
    stride=(1,),
    group_width=8,
    two_convs=False,
    se_ratio=0,
    stem=((3, 2, 8),),
    test_size=24,
  )
  rng = np.random.default_rng(0)
  params = {
    module: {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in leaves.items()}
    for module, leaves in zoo.parameter_shapes(spec, 3).items()
  }
  path = tmp_path_factory.mktemp('weights') / 'small.safetensors'
  metadata = {'class_names': json.dumps(['red', 'green', 'blue'])}
  weights.save(path, params, spec=spec.to_dict(), metadata=metadata)
  return path


@pytest.fixture(scope='session')
def load_script():
  """Name -> the script as a module."""

  def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / 'scripts' / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

  return load


@pytest.fixture(scope='session')
def run_script():
  """(name, *arguments) -> the finished process, run from another folder than the repository."""

  def run(name, *arguments):
    command = [sys.executable, ROOT / 'scripts' / f'{name}.py', *map(str, arguments)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(
      command, env=environment, capture_output=True, text=True, check=False, timeout=300
    )

  return run


@pytest.fixture
def pictures(tmp_path):
  """A folder with a JPEG, a grey PNG in a sub-folder, and a text file; returns it."""
  folder = tmp_path / 'pictures'
  (folder / 'inner').mkdir(parents=True)
  rng = np.random.default_rng(0)
  for name, shape in (('one.jpg', (30, 40, 3)), ('inner/two.png', (40, 30))):
    PIL.Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
  (folder / 'notes.txt').write_text('no picture')
  return folder
