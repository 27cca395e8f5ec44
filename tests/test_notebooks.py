"""The notebooks run from top to bottom, against weights made here."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import nfnets
from nfnets import weights, zoo

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))

# What each says on the way.
SAYS = {
  'finetune.ipynb': [
    'shapes: circle, square, triangle',
    '3 classes. 96 training and 24 test images',
    'Done: test top-1',
    'triangle/039.jpg:',
  ],
  'nfnet_demo.ipynb': ['1000 classes, pictures of 64 px'],
  'normalizer_free.ipynb': [
    'batch normalisation\n  Nothing is wrong.',
    '1: no normalisation\n  Exploding variance',
    '2: small branches\n  Mean shift',
    '3: standardised weights\n  Fading branches',
    '4: scaled activations\n  Nothing is wrong.',
    'step 20/120  loss',
    'test top-1 9',
  ],
}

# The cells whose pictures are kept: those that need no released weights.
SHOWS = {
  'finetune.ipynb': ['cell-4'],
  'nfnet_demo.ipynb': ['cell-7'],
  'normalizer_free.ipynb': ['cell-5', 'cell-7', 'cell-9', 'cell-11', 'cell-13', 'cell-15'],
}
_OF_A_MACHINE = re.compile(r'(?<![\w.])/(?:tmp|home|root|usr|opt|Users)/')


def _code_cells(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  return [cell for cell in cells if cell['cell_type'] == 'code']


@pytest.fixture
def weights_file(tmp_path):
  """A network small enough to run at once, with ImageNet's number of classes."""
  spec = nfnets.ModelSpec(width=(16, 32), depth=(1, 1), stride=(1, 2), group_width=8, test_size=64)
  rng = np.random.default_rng(0)
  params = {
    module: {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in leaves.items()}
    for module, leaves in zoo.parameter_shapes(spec, 1000).items()
  }
  path = tmp_path / 'small.safetensors'
  weights.save(path, params, spec=spec.to_dict())
  return path


def test_the_notebooks_are_these():
  assert [path.name for path in NOTEBOOKS] == list(SAYS)


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_kept_for_readers_small_and_clean(path):
  assert path.stat().st_size < 300_000
  shown, said = [], ''
  for cell in _code_cells(path):
    for output in cell['outputs']:
      assert output['output_type'] != 'error'
      assert output.get('name') != 'stderr', 'a warning is kept'
      said += ''.join(output.get('text', []))
      if 'image/png' in output.get('data', {}):
        shown.append(cell['id'])
  assert shown == SHOWS[path.name]
  assert not _OF_A_MACHINE.search(said), said
  if path.name == 'normalizer_free.ipynb':  # which needs no weights
    for text in SAYS[path.name]:
      assert text in said


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.name)
def test_runs_from_top_to_bottom(path, weights_file, tmp_path):
  notebook = json.loads(path.read_text(encoding='utf-8'))
  assert notebook['nbformat'] == 4
  code = _code_cells(path)
  badge = f'github/nfnets/nfnets/blob/main/notebooks/{path.name})'
  assert badge in ''.join(notebook['cells'][0]['source'])
  assert 'pip' in ''.join(code[0]['source'])
  program = tmp_path / 'notebook.py'
  program.write_text('\n\n'.join(''.join(cell['source']) for cell in code) + "\nprint('the end')\n")
  environment = {
    **os.environ,
    'MPLBACKEND': 'agg',
    'NFNETS_WEIGHTS': str(weights_file),
    'PYTHONPATH': str(ROOT),
  }
  process = subprocess.run(
    [sys.executable, '-W', 'ignore:FigureCanvasAgg', program],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
  )
  assert process.returncode == 0, process.stderr
  for text in SAYS[path.name]:
    assert text in process.stdout
  assert process.stdout.endswith('the end\n')
