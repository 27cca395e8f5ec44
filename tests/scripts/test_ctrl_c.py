"""Ctrl-C in every program, at its first import, at its last and in its work: one line and 130."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

from nfnets import cli

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = (
  'agc_stability',
  'benchmark_input',
  'fashion_mnist',
  'plot_accuracy',
  'reproduce',
  'transfer_digits',
)
# What each is started with; it never comes to its work.
COMMANDS = {
  **{name: ['-m', 'nfnets', name] for name in cli.COMMANDS},
  **{name: [ROOT / f'scripts/{name}.py'] for name in SCRIPTS},
  'predict as a script': [ROOT / 'scripts/predict.py'],
  'train as a module': ['-m', 'experiments.train'],
  'demo as a module': ['-m', 'nfnets.demo'],
}
ARGUMENTS = {
  'benchmark': ['F0'],
  'benchmark_input': ['missing'],
  'compare-runs': ['missing'],
  'convert': ['missing', 'a.safetensors'],
  'demo': ['--port', '0'],
  'evaluate': ['--weights=missing'],
  'export': ['missing', 'a.safetensors'],
  'fashion_mnist': ['missing', 'pictures'],
  'pack-folder': ['missing', 'packed'],
  'plot-signal': ['--check', '--model', 'F0'],
  'predict': ['missing.png'],
  'prepare-tfds': ['--out', 'data'],
  'reproduce': ['small_batch', '--quick'],
  'webcam': ['--source', 'missing'],
}


@pytest.fixture
def start(tmp_path):
  """(*command) -> the process, in an empty folder of its own that has all its temporary files."""
  place = tmp_path / 'place'
  (place / 'tmp').mkdir(parents=True)
  started = []

  def call(*command):
    process = subprocess.Popen(
      [sys.executable, *map(str, command)],
      cwd=place,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': str(ROOT),
        'TMPDIR': str(place / 'tmp'),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )
    started.append(process)
    return process

  yield call
  for process in started:
    process.kill()


def wait_for(condition, process, seconds=120):
  deadline = time.monotonic() + seconds
  while not condition():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.002)


def listens(process):
  """Whether a handler of SIGHUP is there, which is the first act of a program."""
  status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
  return int(re.search(r'SigCgt:\s*(\w+)', status)[1], 16) & 1 << signal.SIGHUP - 1


def has_loaded(process, library):
  return library in pathlib.Path(f'/proc/{process.pid}/maps').read_text()


def interrupt(process, tmp_path):
  """Presses Ctrl-C; returns what was printed, and the files that are left."""
  os.killpg(process.pid, signal.SIGINT)  # to all processes, as a terminal does
  out, err = process.communicate(timeout=20)
  assert process.returncode == 130, (out, err)
  place = tmp_path / 'place'
  left = {str(p.relative_to(place)) for p in place.rglob('*') if not p.is_dir()}
  return out, err, sorted(left - {'tmp/.ses'})  # which ONNX Runtime writes when it is imported


@pytest.mark.parametrize('name', COMMANDS)
def test_at_the_first_import(start, tmp_path, name):
  process = start(*COMMANDS[name], *ARGUMENTS.get(name.split()[0], []))
  wait_for(lambda: listens(process), process)
  assert interrupt(process, tmp_path) == ('', 'Error: interrupted.\n', [])


# The last that is loaded before the work; benchmark loads nothing of the kind, and the scripts of
# folders end where there is none.
@pytest.mark.parametrize(
  ('name', 'library'),
  [
    ('train', 'jaxlib'),
    ('evaluate', 'jaxlib'),
    ('predict', 'jaxlib'),
    ('webcam', 'cv2'),
    ('demo', 'jaxlib'),
    ('export', 'jaxlib'),
    ('convert', 'jaxlib'),
    ('show-batch', 'cv2'),
    ('compare-runs', 'numpy'),
    ('plot-signal', 'jaxlib'),
    ('pack-folder', 'array_record'),
    ('plan-pod', 'jaxlib'),
    ('agc_stability', 'jaxlib'),
    ('benchmark_input', 'cv2'),
    ('plot_accuracy', 'jaxlib'),
    ('transfer_digits', 'jaxlib'),
    ('reproduce', 'jaxlib'),
    ('fashion_mnist', 'cv2'),
  ],
)
def test_among_the_last_imports(start, tmp_path, name, library):
  process = start(*COMMANDS[name], *ARGUMENTS.get(name, []))
  wait_for(lambda: has_loaded(process, library), process)
  assert interrupt(process, tmp_path) == ('', 'Error: interrupted.\n', [])


@pytest.fixture(scope='module')
def many(tmp_path_factory):
  """A folder of 20,000 pictures in two classes, all the same file."""
  folder = tmp_path_factory.mktemp('many')
  first = folder / 'a.png'
  PIL.Image.new('RGB', (20, 20)).save(first)
  for kind in ('one', 'two'):
    (folder / 'pictures' / kind).mkdir(parents=True)
    for number in range(10_000):
      os.link(first, folder / 'pictures' / kind / f'{number}.png')
  return folder / 'pictures'


def test_while_it_labels(start, tmp_path, many, weights_file):
  outputs = ['--features', 'features.npz', '--sheet', 'sheet.png', '--batch_size', '8']
  process = start('-m', 'nfnets', 'predict', many, '--weights', weights_file, *outputs)
  process.stdout.readline()  # of the first picture
  _, err, left = interrupt(process, tmp_path)
  assert (err, left) == ('Error: interrupted.\n', [])


def test_while_it_packs(start, tmp_path, many):
  process = start('-m', 'nfnets', 'pack-folder', many, 'packed')
  wait_for((tmp_path / 'place/.packed.unfinished/pictures.array_record').exists, process)
  out, err, left = interrupt(process, tmp_path)
  assert (out, left) == ('', [])
  assert err.splitlines()[-1] == 'Error: interrupted.'
  assert 'Traceback' not in err
  assert not (tmp_path / 'place/.packed.unfinished').exists()


@pytest.mark.parametrize('workers', [0, 2])
def test_while_it_reads(start, tmp_path, many, workers):
  flags = ['--config=image_folder', f'--config.data.dir={many}', '--out=batch.png']
  flags += ['--config.global_batch_size=16384', f'--config.data.num_workers={workers}']
  process = start('-m', 'nfnets', 'show-batch', *flags)
  threads = pathlib.Path(f'/proc/{process.pid}/task')

  def works():
    names = [(task / 'comm').read_text() for task in threads.iterdir()]
    return sum(name.startswith(('examples', 'grain')) for name in names) or children(process)

  wait_for(works, process)
  time.sleep(0.5)
  assert interrupt(process, tmp_path) == ('', 'Error: interrupted.\n', [])


def children(process):
  found = subprocess.run(
    ['ps', '-o', 'pid=', '--ppid', str(process.pid)], capture_output=True, text=True, check=False
  )
  return found.stdout.split()


@pytest.mark.parametrize('format', ['stablehlo', 'onnx'])
def test_while_it_exports(start, tmp_path, weights_file, format):
  if format == 'onnx':
    pytest.importorskip('onnx')
  place = tmp_path / 'place'
  (place / f'net.{format}').write_text('old')
  process = start('-m', 'nfnets', 'export', weights_file, f'net.{format}')
  wait_for(lambda: has_loaded(process, 'jaxlib'), process)
  time.sleep(0.3)
  out, err, left = interrupt(process, tmp_path)
  assert (out, err, left) == ('', 'Error: interrupted.\n', [f'net.{format}'])
  assert (place / f'net.{format}').read_text() == 'old'
