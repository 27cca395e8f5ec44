"""The reader of published weights: exact, alone with numpy, and deaf to what a pickle asks for."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def _text(text: str) -> bytes:
  return pickle.BINUNICODE + struct.pack('<I', len(text.encode())) + text.encode()


def _bytes(data: bytes) -> bytes:
  return pickle.BINBYTES + struct.pack('<I', len(data)) + data


def _int(value: int) -> bytes:
  return pickle.BININT + struct.pack('<i', value)


def _global(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def _tuple(*items: bytes) -> bytes:
  return pickle.MARK + b''.join(items) + pickle.TUPLE


def _call(function: bytes, *arguments: bytes) -> bytes:
  return function + _tuple(*arguments) + pickle.REDUCE


NDARRAY = _global('numpy', 'ndarray')
RECONSTRUCT = _global('numpy.core.multiarray', '_reconstruct')
MAPPING = _global('haiku._src.data_structures', 'FlatMapping')
PLAIN_STATE = _tuple(_int(3), _text('<'), b'NNN', _int(-1), _int(-1), _int(0))
MARKER = 'touch executed'


def _dtype(name: str = 'f4', state: bytes = PLAIN_STATE) -> bytes:
  return _call(_global('numpy', 'dtype'), _text(name), _int(0), _int(1)) + state + pickle.BUILD


def _array(
  shape: tuple[int, ...] = (2,),
  data: bytes = bytes(8),
  dtype: bytes | None = None,
  maker: bytes = RECONSTRUCT,
) -> bytes:
  new = _call(maker, NDARRAY, _tuple(_int(0)), _bytes(b'b'))
  sizes = _tuple(*map(_int, shape))
  state = _tuple(_int(1), sizes, dtype or _dtype(), pickle.NEWFALSE, _bytes(data))
  return new + state + pickle.BUILD


def _file(leaf: bytes, after: bytes = b'') -> bytes:
  """The tree {'m': {'w': leaf}}."""
  inner = pickle.EMPTY_DICT + _text('w') + leaf + pickle.SETITEM
  root = pickle.EMPTY_DICT + _text('m') + inner + pickle.SETITEM
  return pickle.PROTO + b'\x03' + root + after + pickle.STOP


class _Evil:
  """Pickles as a call."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def _pickled(value, protocol: int = 3) -> bytes:
  return pickle.dumps({'m': {'w': value}}, protocol)


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
  makers = [_global(module, '_reconstruct') for module in modules]
  for module in modules:
    imported = _call(_global('dill._dill', '_import_module'), _text(module))
    makers.append(_call(_global('dill._dill', '_get_attr'), imported, _text('_reconstruct')))
  for maker in makers:
    (tmp_path / 'w').write_bytes(_file(_array(data=struct.pack('<2f', 1, 2), maker=maker)))
    assert pickles.read_tree(tmp_path / 'w')['m']['w'].tolist() == [1, 2]
  for name in ('FlatMapping', 'FlatMap', 'frozendict'):
    inner = pickle.EMPTY_DICT + _text('w') + _array() + pickle.SETITEM
    mapping = _call(_global('haiku._src.data_structures', name), inner)
    root = pickle.EMPTY_DICT + _text('m') + mapping + pickle.SETITEM
    (tmp_path / 'w').write_bytes(b'\x80\x03' + root + b'.')
    assert pickles.read_tree(tmp_path / 'w')['m']['w'].shape == (2,)


def _executing() -> dict[str, bytes]:
  """Pickles that run something when they are unpickled; each would leave a file behind."""
  imported = _call(_global('dill._dill', '_import_module'), _text('os'))
  core = _call(_global('dill._dill', '_import_module'), _text('numpy.core._multiarray_umath'))
  get_attr = _global('dill._dill', '_get_attr')
  code = f'__import__("os").system("{MARKER}")'
  files = {
    f'{module}.{name}': _file(_call(_global(module, name), _text(argument)))
    for module, name, argument in (
      ('os', 'system', MARKER),
      ('posix', 'system', MARKER),
      ('nt', 'system', MARKER),
      ('builtins', 'eval', code),
      ('builtins', 'exec', code),
      ('__builtin__', 'eval', code),
      ('builtins', '__import__', 'os'),
      ('subprocess', 'getoutput', MARKER),
      ('numpy', 'load', 'x'),
      ('numpy', 'core.multiarray._reconstruct', 'x'),
      ('numpy.testing._private.utils', 'runstring', code),
      ('importlib', 'import_module', 'os'),
      ('dill._dill', 'loads', 'x'),
      ('dill', 'loads', 'x'),
      ('pickle', 'loads', 'x'),
      ('copyreg', '_reconstructor', 'x'),
      ('copyreg', 'add_extension', 'x'),
      ('operator', 'attrgetter', 'system'),
      ('functools', 'partial', 'x'),
      ('haiku._src.data_structures', 'FlatMapping.mro', 'x'),
      ('dill._dill', '_create_code', 'x'),
    )
  }
  for protocol in (3, 4):
    files[f'reduce os.system {protocol}'] = _pickled(_Evil(os.system, MARKER), protocol)
    files[f'reduce eval {protocol}'] = _pickled(_Evil(eval, code), protocol)
    nested = pickle.dumps(_Evil(os.system, MARKER))
    files[f'reduce loads {protocol}'] = _pickled(_Evil(pickle.loads, nested), protocol)
  system = _global('os', 'system')
  files |= {
    'import of os': _file(imported),
    'attribute of os': _file(_call(_call(get_attr, imported, _text('system')), _text(MARKER))),
    'other attribute': _file(_call(get_attr, core, _text('__loader__'))),
    'attribute of an attribute': _file(
      _call(get_attr, _call(get_attr, core, _text('_reconstruct')), _text('__self__'))
    ),
    'attribute of ndarray': _file(_call(get_attr, NDARRAY, _text('_reconstruct'))),
    'attribute given by a mapping': _file(_call(get_attr, pickle.EMPTY_DICT, _text('get'))),
    'reconstruct another class': _file(_call(RECONSTRUCT, MAPPING, _tuple(_int(0)), _bytes(b'b'))),
    'dtype of a class': _file(_call(_global('numpy', 'dtype'), NDARRAY, _int(0), _int(1))),
    'inst': b'\x80\x03(' + _text(MARKER) + b'ios\nsystem\n.',
    'obj': b'\x80\x03(' + system + _text(MARKER) + b'o.',
    'newobj': _file(system + _tuple(_text(MARKER)) + pickle.NEWOBJ),
    'newobj of an allowed name': _file(NDARRAY + _tuple(_tuple(_int(9))) + pickle.NEWOBJ),
    'newobj_ex': b'\x80\x04' + system + _tuple(_text(MARKER)) + b'}\x92.',
    'extension 1': _file(pickle.EXT1 + b'\x01'),
    'extension 2': _file(pickle.EXT2 + b'\x01\x00'),
    'extension 4': _file(pickle.EXT4 + b'\x01\x00\x00\x00'),
    'persistent id': b'\x80\x03Pos.system\n.',
    'persistent id on the stack': b'\x80\x03' + _text(MARKER) + b'Q.',
    'stack global': b'\x80\x04'
    + _text('os')
    + _text('system')
    + b'\x93'
    + _text(MARKER)
    + b'\x85R.',
    'stack global of no text': b'\x80\x04})\x93.',
    'after a good tree': _file(_array(), after=b'0' + _call(system, _text(MARKER))),
    'call of a mapping': _file(_call(pickle.EMPTY_DICT, _text('x'))),
    'call of text': _file(_call(_text('os.system'), _text(MARKER))),
    'state of a mapping': _file(pickle.EMPTY_DICT + pickle.EMPTY_DICT + pickle.BUILD),
    'state of a name': _file(NDARRAY + pickle.EMPTY_DICT + pickle.BUILD),
    'out of band buffer': b'\x80\x05\x97.',
    'protocol 0': pickle.dumps(_Evil(os.system, MARKER), 0),
    'protocol 2': pickle.dumps(_Evil(os.system, MARKER), 2),
  }
  return files


def test_nothing_is_ever_executed(read_alone, tmp_path):
  files = _executing()
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


def _exhausting() -> dict[str, bytes]:
  """Pickles that would take much memory or time."""
  laughs = pickle.EMPTY_TUPLE + pickle.BINPUT + b'\x00'
  for _ in range(200):
    laughs += b'h\x00h\x00\x86q\x00'  # each a pair of the one before
  own = b'\x80\x03}q\x00' + _text('m') + b'h\x00s.'
  return {
    'giant shape': _file(_array((2**31 - 1, 2**31 - 1))),
    'giant shape of many': _file(_array((2**31 - 1,) * 32)),
    'giant and empty shape': _file(_array((0, 2**31 - 1, 2**31 - 1), b'')),
    'negative shape': _file(_array((-1,))),
    'negative pair': _file(_array((-1, -2))),
    'too many dimensions': _file(_array((1,) * 65 + (2,))),
    'shape of text': _file(
      _call(RECONSTRUCT, NDARRAY, _tuple(_int(0)), _bytes(b'b'))
      + _tuple(_int(1), _tuple(_text('2')), _dtype(), b'\x89', _bytes(bytes(8)))
      + b'b'
    ),
    'shape of a number': _file(
      _call(RECONSTRUCT, NDARRAY, _tuple(_int(0)), _bytes(b'b'))
      + _tuple(_int(1), _int(2), _dtype(), b'\x89', _bytes(bytes(8)))
      + b'b'
    ),
    'wrong state': _file(
      _call(RECONSTRUCT, NDARRAY, _tuple(_int(0)), _bytes(b'b')) + _tuple(_int(1)) + b'b'
    ),
    'wrong size of new array': _file(
      _call(RECONSTRUCT, NDARRAY, _tuple(_int(2**31 - 1)), _bytes(b'b'))
    ),
    'no state': _file(_call(RECONSTRUCT, NDARRAY, _tuple(_int(0)), _bytes(b'b'))),
    'two states': _file(_array() + _tuple() + b'b'),
    'few bytes': _file(_array((2,), bytes(7))),
    'objects': _file(_array((1,), dtype=_dtype('O8'))),
    'objects by one letter': _file(_array((1,), dtype=_dtype('O'))),
    'text': _file(_array((2,), dtype=_dtype('U1'))),
    'structured': _file(_array((2,), dtype=_dtype('f4,f4'))),
    'giant item': _file(_array((2,), dtype=_dtype('V2147483647'))),
    'integers': _file(_array((2,), dtype=_dtype('i4'))),
    'other byte order': _file(
      _array(dtype=_dtype('f4', _tuple(_int(3), _text('>'), b'NNN', _int(-1), _int(-1), _int(0))))
    ),
    'fields of a dtype': _file(
      _array(dtype=_dtype('f4', _tuple(_int(3), _text('<'), b'N})', _int(-1), _int(-1), _int(63))))
    ),
    'object array of numpy': _pickled(np.array([{}, os], object)[:1]),
    'numpy scalar': _pickled(np.float32(1)),
    'laughs': b'\x80\x03' + laughs + b'.',
    'laughs as an array': _file(laughs),
    'laughs as a key': b'\x80\x03}' + laughs + b'Ns.',
    'laughs as a state': _file(_call(RECONSTRUCT, NDARRAY, _tuple(_int(0))) + laughs + b'b'),
    'laughs as a dtype state': _file(_array(dtype=_dtype('f4', laughs))),
    'laughs as arguments': b'\x80\x03' + MAPPING + laughs + b'R.',
    'a mapping in itself': own,
    'long bytes': b'\x80\x03B\xff\xff\xff\x7fabc.',
    'longest bytes': b'\x80\x04\x8e' + b'\xff' * 8 + b'abc.',
    'long text': b'\x80\x03X\xff\xff\xff\xffabc.',
    'whole long text': _file(_text('x' * 1_000_000)),
    'long number': b'\x80\x03\x8b\xff\xff\xff\x7f' + bytes(100) + b'.',
    'digits': b'\x80\x03L' + b'9' * 1_000_000 + b'L\n.',
    'long frame': b'\x80\x04\x95' + b'\xff' * 8 + b'}.',
    'far memo': b'\x80\x03}r\xff\xff\xff\xffj\xff\xff\xff\xff.',
    'absent memo': b'\x80\x03h\x07.',
    'marks': b'\x80\x03' + b'(' * 3_000_000 + b'.',
    'mappings': b'\x80\x03' + b'}' * 3_000_000 + b'.',
    'empty arrays': b'\x80\x03' + b'C\x00' * 1_500_000 + b'.',
    'nested': b'\x80\x03)' + b'\x85' * 3_000_000 + b'.',
    'copies': b'\x80\x03B' + struct.pack('<I', 10**6) + bytes(10**6) + b'q\x00' + b'h\x00' * 10**6,
    'line without an end': b'\x80\x03c' + b'x' * 3_000_000,
    'nothing on the stack': b'\x80\x03.',
    'tuple of nothing': b'\x80\x03\x87.',
    'below a mark': b'\x80\x03})(s.',
    'no mark': b'\x80\x03}u.',
    'odd items': b'\x80\x03}(' + _text('m') + b'u.',
    'repeated key': b'\x80\x03}(' + (_text('m') + b'}') * 2 + b'u.',
    'no text': b'\x80\x03X\x02\x00\x00\x00\xff\xff.',
    'left over': _file(_array()) + b'.',
    'left on the stack': b'\x80\x03}}.',
    'an array alone': b'\x80\x03' + _array() + b'.',
    'a list': pickle.dumps([np.ones(2, np.float32)], 3),
    'one level': pickle.dumps({'w': np.ones(2, np.float32)}, 3),
    'three levels': _pickled({'deep': np.ones(2, np.float32)}),
    'empty': pickle.dumps({}, 3),
    'empty module': pickle.dumps({'m': {}}, 3),
    'numbers as names': pickle.dumps({'m': {1: np.ones(2, np.float32)}}, 3),
  }


def test_memory_is_bounded(read_alone):
  report = read_alone(_exhausting())
  assert {name: outcome for name, (outcome, *_) in report.items() if outcome != 'ValueError'} == {}
  assert max(peak for *_, peak in report.values()) < 60e6
  assert 'shape (2147483647, 2147483647) cannot have 8 bytes' in report['giant shape'][1]
  assert 'the file is cut or damaged' in report['longest bytes'][1]


def test_truncated_files_are_refused(read_alone):
  data = TINY.read_bytes()
  ends = [*(len(data) * tenth // 10 for tenth in range(10)), 1, 2, 3, len(data) - 1]
  report = read_alone({str(end): data[:end] for end in ends})
  assert {outcome for outcome, *_ in report.values()} == {'ValueError'}
  cut = report[str(len(data) // 2)]
  assert 'the file is cut' in cut[1]
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
    (b'PK\x03\x04' + bytes(60), 'zip archive .*numpy.load'),
    (struct.pack('<Q', 40) + b'{"a": {}}', 'safetensors file: read it with nfnets.weights.load'),
    (b'\x93NUMPY\x01\x00', 'single array'),
    (b'\x1f\x8b\x08', 'gzip'),
    (b'\n<!DOCTYPE html>', 'web page'),
    (b'', 'an empty file'),
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
