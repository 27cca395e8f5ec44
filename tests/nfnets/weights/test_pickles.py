"""The reader of published weights: exact, alone with numpy, and deaf to what a pickle asks for."""

import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from handmade_pickles import array_of, call, executing, exhausting, name_of, text, tree_file

from nfnets.weights import pickles

GOLDEN = Path(__file__).parents[2] / 'golden'
TINY = GOLDEN / 'deepmind_format_tiny_haiku.npz'

# Reads every file of a folder in a process that has numpy only, and watches what Python does.
ALONE = """
import importlib.util, json, pathlib, sys, tracemalloc

class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.partition('.')[0] in ('haiku', 'dill', 'jax', 'jaxlib', 'nfnets', 'cloudpickle'):
      raise ImportError(name)

sys.meta_path.insert(0, Blocker())
spec = importlib.util.spec_from_file_location('pickles', sys.argv[1])
pickles = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pickles)

events = set()
watching = False
sys.addaudithook(lambda event, args: watching and event != 'open' and events.add(event))
tracemalloc.start()
report = {}
for path in sorted(pathlib.Path(sys.argv[2]).iterdir()):
  tracemalloc.reset_peak()
  before, _ = tracemalloc.get_traced_memory()
  watching = True
  try:
    arrays = sum(len(entries) for entries in pickles.read_tree(path).values())
    outcome = 'loaded', arrays
  except BaseException as error:
    outcome = type(error).__name__, str(error)
  watching = False
  report[path.name] = *outcome, tracemalloc.get_traced_memory()[1] - before
print(json.dumps([report, sorted(events)]))
"""


@pytest.fixture
def read_alone(tmp_path):
  """{name: bytes} -> {name: (outcome, detail, peak bytes)}; checks that nothing was executed."""

  def read(files: dict[str, bytes]) -> dict[str, tuple[str, str, int]]:
    folder = tmp_path / 'files'
    folder.mkdir()
    for name, data in files.items():
      (folder / name).write_bytes(data)
    command = [sys.executable, '-c', ALONE, pickles.__file__, str(folder)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    report, events = json.loads(run.stdout)
    assert events == []  # no import, exec, system, find_class, ...
    assert [path.name for path in tmp_path.iterdir()] == ['files']  # no marker either
    return report

  return read


def test_tiny_release_equals_the_training_run(read_alone):
  tree = pickles.read_tree(TINY)
  with np.load(GOLDEN / 'train.npz') as golden:
    wanted = {key: golden[key] for key in golden.files if key.startswith('params:')}
  assert {f'params:{m}/{n}' for m, entries in tree.items() for n in entries} == set(wanted)
  for module, entries in tree.items():
    for name, array in entries.items():
      assert isinstance(array, np.ndarray)
      assert array.dtype == np.float32
      assert array.flags.writeable
      np.testing.assert_array_equal(array, wanted[f'params:{module}/{name}'], strict=True)
  (outcome, arrays, peak), *_ = read_alone({'tiny': TINY.read_bytes()}).values()
  assert (outcome, arrays) == ('loaded', len(wanted))
  assert peak < 2 * TINY.stat().st_size


@pytest.mark.parametrize('protocol', [3, 4])
def test_other_pickles_of_the_layout(tmp_path, protocol):
  shared = np.ones(3, np.float32)
  tree = {
    'a/~/b': {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'gain': np.array(0.5, np.float32)},
    'c': {'f': np.asfortranarray(np.arange(12.0).reshape(3, 4)), 'h': np.ones(2, np.float16)},
    'd': {'one': shared, 'two': shared},
  }
  path = tmp_path / 'weights'
  path.write_bytes(pickle.dumps(tree, protocol))
  loaded = pickles.read_tree(str(path))
  assert list(loaded) == list(tree)
  for module, entries in tree.items():
    assert list(loaded[module]) == list(entries)
    for name, array in entries.items():
      np.testing.assert_array_equal(loaded[module][name], array, strict=True)


def test_every_published_name_is_understood(tmp_path):
  core = ('core.multiarray', 'core._multiarray_umath')
  modules = [f'numpy.{prefix}{name}' for prefix in ('', '_') for name in core]
  makers = [name_of(module, '_reconstruct') for module in modules]
  for module in modules:
    imported = call(name_of('dill._dill', '_import_module'), text(module))
    makers.append(call(name_of('dill._dill', '_get_attr'), imported, text('_reconstruct')))
  for maker in makers:
    (tmp_path / 'w').write_bytes(tree_file(array_of(data=struct.pack('<2f', 1, 2), maker=maker)))
    assert pickles.read_tree(tmp_path / 'w')['m']['w'].tolist() == [1, 2]
  for name in ('FlatMapping', 'FlatMap', 'frozendict'):
    inner = pickle.EMPTY_DICT + text('w') + array_of() + pickle.SETITEM
    mapping = call(name_of('haiku._src.data_structures', name), inner)
    root = pickle.EMPTY_DICT + text('m') + mapping + pickle.SETITEM
    (tmp_path / 'w').write_bytes(b'\x80\x03' + root + b'.')
    assert pickles.read_tree(tmp_path / 'w')['m']['w'].shape == (2,)


def test_nothing_is_ever_executed(read_alone, tmp_path):
  files = executing()
  # They are what they claim to be: the pickle module runs them and leaves the marker.
  for name in ('reduce os.system 3', 'builtins.eval', 'inst', 'stack global'):
    (tmp_path / 'evil').write_bytes(files[name])
    code = 'import pickle; pickle.load(open("evil", "rb"))'
    subprocess.run([sys.executable, '-c', code], cwd=tmp_path, check=True)
    (tmp_path / 'executed').unlink()
    (tmp_path / 'evil').unlink()
  report = read_alone(files)
  assert {name: outcome for name, (outcome, *_) in report.items() if outcome != 'ValueError'} == {}
  assert len(report) == len(files) > 50
  assert "wants 'os', 'system', which weights do not need" in report['os.system'][1]
  assert 'refused at byte' in report['inst'][1]


def test_memory_is_bounded(read_alone):
  report = read_alone(exhausting())
  assert {name: outcome for name, (outcome, *_) in report.items() if outcome != 'ValueError'} == {}
  assert max(peak for *_, peak in report.values()) < 60e6
  assert 'shape (2147483647, 2147483647) cannot have 8 bytes' in report['giant shape'][1]
  assert 'the file is truncated or damaged' in report['longest bytes'][1]


def test_truncated_files_are_refused(read_alone):
  data = TINY.read_bytes()
  ends = [*(len(data) * tenth // 10 for tenth in range(10)), 1, 2, 3, len(data) - 1]
  report = read_alone({str(end): data[:end] for end in ends})
  assert {outcome for outcome, *_ in report.values()} == {'ValueError'}
  cut = report[str(len(data) // 2)]
  assert 'the file is truncated' in cut[1]
  assert cut[2] < 2 * len(data)


def test_mutated_files_load_or_are_refused(read_alone, mutated_copies):
  report = read_alone({f'{i:03}': data for i, (data, _) in enumerate(mutated_copies)})
  outcomes = [outcome for outcome, *_ in report.values()]
  assert set(outcomes) == {'loaded', 'ValueError'}
  assert outcomes.count('ValueError') > 50
  assert max(peak for *_, peak in report.values()) < 2 * TINY.stat().st_size


@pytest.mark.parametrize(
  ('data', 'message'),
  [
    (b'hello', 'does not begin as a pickle'),
    (pickle.dumps({}, 5), 'protocol 3 or 4'),
  ],
)
def test_other_formats_are_named(tmp_path, data, message):
  (tmp_path / 'w').write_bytes(data)
  with pytest.raises(ValueError, match=message):
    pickles.read_tree(tmp_path / 'w')


def test_no_file_is_named(tmp_path):
  for path in (tmp_path / 'absent', tmp_path):
    with pytest.raises(FileNotFoundError, match='no weights file'):
      pickles.read_tree(path)
