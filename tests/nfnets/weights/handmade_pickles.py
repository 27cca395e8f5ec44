"""Pickles made by hand, opcode by opcode: of published weights, and of attackers."""

import os
import pickle
import struct

import numpy as np


def text(value: str) -> bytes:
  return pickle.BINUNICODE + struct.pack('<I', len(value.encode())) + value.encode()


def byte_string(data: bytes) -> bytes:
  return pickle.BINBYTES + struct.pack('<I', len(data)) + data


def number(value: int) -> bytes:
  return pickle.BININT + struct.pack('<i', value)


def name_of(module: str, name: str) -> bytes:
  return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def tuple_of(*items: bytes) -> bytes:
  return pickle.MARK + b''.join(items) + pickle.TUPLE


def call(function: bytes, *arguments: bytes) -> bytes:
  return function + tuple_of(*arguments) + pickle.REDUCE


NDARRAY = name_of('numpy', 'ndarray')
RECONSTRUCT = name_of('numpy.core.multiarray', '_reconstruct')
MAPPING = name_of('haiku._src.data_structures', 'FlatMapping')
PLAIN_STATE = tuple_of(number(3), text('<'), b'NNN', number(-1), number(-1), number(0))
MARKER = 'touch executed'


def dtype_of(name: str = 'f4', state: bytes = PLAIN_STATE) -> bytes:
  return call(name_of('numpy', 'dtype'), text(name), number(0), number(1)) + state + pickle.BUILD


def array_of(
  shape: tuple[int, ...] = (2,),
  data: bytes = bytes(8),
  dtype: bytes | None = None,
  maker: bytes = RECONSTRUCT,
) -> bytes:
  new = call(maker, NDARRAY, tuple_of(number(0)), byte_string(b'b'))
  sizes = tuple_of(*map(number, shape))
  state = tuple_of(number(1), sizes, dtype or dtype_of(), pickle.NEWFALSE, byte_string(data))
  return new + state + pickle.BUILD


def tree_file(leaf: bytes, after: bytes = b'') -> bytes:
  """The tree {'m': {'w': leaf}}."""
  inner = pickle.EMPTY_DICT + text('w') + leaf + pickle.SETITEM
  root = pickle.EMPTY_DICT + text('m') + inner + pickle.SETITEM
  return pickle.PROTO + b'\x03' + root + after + pickle.STOP


class Evil:
  """Pickles as a call."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def pickled(value, protocol: int = 3) -> bytes:
  return pickle.dumps({'m': {'w': value}}, protocol)


def executing() -> dict[str, bytes]:
  """Pickles that run something when they are unpickled; each would leave a file behind."""
  imported = call(name_of('dill._dill', '_import_module'), text('os'))
  core = call(name_of('dill._dill', '_import_module'), text('numpy.core._multiarray_umath'))
  get_attr = name_of('dill._dill', '_get_attr')
  code = f'__import__("os").system("{MARKER}")'
  files = {
    f'{module}.{name}': tree_file(call(name_of(module, name), text(argument)))
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
    files[f'reduce os.system {protocol}'] = pickled(Evil(os.system, MARKER), protocol)
    files[f'reduce eval {protocol}'] = pickled(Evil(eval, code), protocol)
    nested = pickle.dumps(Evil(os.system, MARKER))
    files[f'reduce loads {protocol}'] = pickled(Evil(pickle.loads, nested), protocol)
  system = name_of('os', 'system')
  files |= {
    'import of os': tree_file(imported),
    'attribute of os': tree_file(call(call(get_attr, imported, text('system')), text(MARKER))),
    'other attribute': tree_file(call(get_attr, core, text('__loader__'))),
    'attribute of an attribute': tree_file(
      call(get_attr, call(get_attr, core, text('_reconstruct')), text('__self__'))
    ),
    'attribute of ndarray': tree_file(call(get_attr, NDARRAY, text('_reconstruct'))),
    'attribute given by a mapping': tree_file(call(get_attr, pickle.EMPTY_DICT, text('get'))),
    'reconstruct another class': tree_file(
      call(RECONSTRUCT, MAPPING, tuple_of(number(0)), byte_string(b'b'))
    ),
    'dtype of a class': tree_file(call(name_of('numpy', 'dtype'), NDARRAY, number(0), number(1))),
    'inst': b'\x80\x03(' + text(MARKER) + b'ios\nsystem\n.',
    'obj': b'\x80\x03(' + system + text(MARKER) + b'o.',
    'newobj': tree_file(system + tuple_of(text(MARKER)) + pickle.NEWOBJ),
    'newobj of an allowed name': tree_file(NDARRAY + tuple_of(tuple_of(number(9))) + pickle.NEWOBJ),
    'newobj_ex': b'\x80\x04' + system + tuple_of(text(MARKER)) + b'}\x92.',
    'extension 1': tree_file(pickle.EXT1 + b'\x01'),
    'extension 2': tree_file(pickle.EXT2 + b'\x01\x00'),
    'extension 4': tree_file(pickle.EXT4 + b'\x01\x00\x00\x00'),
    'persistent id': b'\x80\x03Pos.system\n.',
    'persistent id on the stack': b'\x80\x03' + text(MARKER) + b'Q.',
    'stack global': b'\x80\x04' + text('os') + text('system') + b'\x93' + text(MARKER) + b'\x85R.',
    'stack global of no text': b'\x80\x04})\x93.',
    'after a good tree': tree_file(array_of(), after=b'0' + call(system, text(MARKER))),
    'call of a mapping': tree_file(call(pickle.EMPTY_DICT, text('x'))),
    'call of text': tree_file(call(text('os.system'), text(MARKER))),
    'state of a mapping': tree_file(pickle.EMPTY_DICT + pickle.EMPTY_DICT + pickle.BUILD),
    'state of a name': tree_file(NDARRAY + pickle.EMPTY_DICT + pickle.BUILD),
    'out of band buffer': b'\x80\x05\x97.',
    'protocol 0': pickle.dumps(Evil(os.system, MARKER), 0),
    'protocol 2': pickle.dumps(Evil(os.system, MARKER), 2),
  }
  return files


def exhausting() -> dict[str, bytes]:
  """Pickles that would take much memory or time."""
  laughs = pickle.EMPTY_TUPLE + pickle.BINPUT + b'\x00'
  for _ in range(200):
    laughs += b'h\x00h\x00\x86q\x00'  # each a pair of the one before
  own = b'\x80\x03}q\x00' + text('m') + b'h\x00s.'
  return {
    'giant shape': tree_file(array_of((2**31 - 1, 2**31 - 1))),
    'giant shape of many': tree_file(array_of((2**31 - 1,) * 32)),
    'giant and empty shape': tree_file(array_of((0, 2**31 - 1, 2**31 - 1), b'')),
    'negative shape': tree_file(array_of((-1,))),
    'negative pair': tree_file(array_of((-1, -2))),
    'too many dimensions': tree_file(array_of((1,) * 65 + (2,))),
    'shape of text': tree_file(
      call(RECONSTRUCT, NDARRAY, tuple_of(number(0)), byte_string(b'b'))
      + tuple_of(number(1), tuple_of(text('2')), dtype_of(), b'\x89', byte_string(bytes(8)))
      + b'b'
    ),
    'shape of a number': tree_file(
      call(RECONSTRUCT, NDARRAY, tuple_of(number(0)), byte_string(b'b'))
      + tuple_of(number(1), number(2), dtype_of(), b'\x89', byte_string(bytes(8)))
      + b'b'
    ),
    'wrong state': tree_file(
      call(RECONSTRUCT, NDARRAY, tuple_of(number(0)), byte_string(b'b'))
      + tuple_of(number(1))
      + b'b'
    ),
    'wrong size of new array': tree_file(
      call(RECONSTRUCT, NDARRAY, tuple_of(number(2**31 - 1)), byte_string(b'b'))
    ),
    'no state': tree_file(call(RECONSTRUCT, NDARRAY, tuple_of(number(0)), byte_string(b'b'))),
    'two states': tree_file(array_of() + tuple_of() + b'b'),
    'few bytes': tree_file(array_of((2,), bytes(7))),
    'objects': tree_file(array_of((1,), dtype=dtype_of('O8'))),
    'objects by one letter': tree_file(array_of((1,), dtype=dtype_of('O'))),
    'text': tree_file(array_of((2,), dtype=dtype_of('U1'))),
    'structured': tree_file(array_of((2,), dtype=dtype_of('f4,f4'))),
    'giant item': tree_file(array_of((2,), dtype=dtype_of('V2147483647'))),
    'integers': tree_file(array_of((2,), dtype=dtype_of('i4'))),
    'other byte order': tree_file(
      array_of(
        dtype=dtype_of(
          'f4', tuple_of(number(3), text('>'), b'NNN', number(-1), number(-1), number(0))
        )
      )
    ),
    'fields of a dtype': tree_file(
      array_of(
        dtype=dtype_of(
          'f4', tuple_of(number(3), text('<'), b'N})', number(-1), number(-1), number(63))
        )
      )
    ),
    'object array of numpy': pickled(np.array([{}, os], object)[:1]),
    'numpy scalar': pickled(np.float32(1)),
    'laughs': b'\x80\x03' + laughs + b'.',
    'laughs as an array': tree_file(laughs),
    'laughs as a key': b'\x80\x03}' + laughs + b'Ns.',
    'laughs as a state': tree_file(call(RECONSTRUCT, NDARRAY, tuple_of(number(0))) + laughs + b'b'),
    'laughs as a dtype state': tree_file(array_of(dtype=dtype_of('f4', laughs))),
    'laughs as arguments': b'\x80\x03' + MAPPING + laughs + b'R.',
    'a mapping in itself': own,
    'long bytes': b'\x80\x03B\xff\xff\xff\x7fabc.',
    'longest bytes': b'\x80\x04\x8e' + b'\xff' * 8 + b'abc.',
    'long text': b'\x80\x03X\xff\xff\xff\xffabc.',
    'whole long text': tree_file(text('x' * 1_000_000)),
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
    'odd items': b'\x80\x03}(' + text('m') + b'u.',
    'repeated key': b'\x80\x03}(' + (text('m') + b'}') * 2 + b'u.',
    'no text': b'\x80\x03X\x02\x00\x00\x00\xff\xff.',
    'left over': tree_file(array_of()) + b'.',
    'left on the stack': b'\x80\x03}}.',
    'an array alone': b'\x80\x03' + array_of() + b'.',
    'a list': pickle.dumps([np.ones(2, np.float32)], 3),
    'one level': pickle.dumps({'w': np.ones(2, np.float32)}, 3),
    'three levels': pickled({'deep': np.ones(2, np.float32)}),
    'empty': pickle.dumps({}, 3),
    'empty module': pickle.dumps({'m': {}}, 3),
    'numbers as names': pickle.dumps({'m': {1: np.ones(2, np.float32)}}, 3),
  }
