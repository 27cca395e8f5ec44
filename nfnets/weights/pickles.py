"""Reads the published weight files, which are pickles, without unpickling them.

A pickle is a program: the pickle module imports what the file names and calls it. This module never
imports or calls anything that a file names. It is a stack machine for the few opcodes that occur in
the published files. The eight names in them become tokens of a closed table, and their "calls"
become checks of the arguments. At any other opcode, name or argument the file is refused, with the
position of that byte. An array is created only after all its bytes were read, so the file's size
bounds the memory.

This file needs only the standard library and numpy, and can be used separately.
"""

import dataclasses
import enum
import io
import math
import os
import pickle  # for the names of its opcodes, nothing else
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import numpy as np

# The largest published file has some 37,000 opcodes; the limits bound what short opcodes allocate.
_MAX_OPCODES = 100_000
_MAX_TEXT = 4096  # bytes of one name
_MAX_DIMENSIONS = 32
_DTYPES = ('f2', 'f4', 'f8')  # an integer where weights are floats would be a damaged file

Tree = dict[str, dict[str, np.ndarray]]


class _Token(enum.Enum):
  """A token for a name in the file; never the object that the name refers to."""

  MAPPING = enum.auto()
  IMPORT_MODULE = enum.auto()
  GET_ATTR = enum.auto()
  NUMPY_CORE = enum.auto()
  RECONSTRUCT = enum.auto()
  NDARRAY = enum.auto()
  DTYPE = enum.auto()


_NUMPY_CORE = tuple(
  f'numpy.{core}.{name}'
  for core in ('core', '_core')
  for name in ('multiarray', '_multiarray_umath')
)
_GLOBALS = {
  ('haiku._src.data_structures', 'FlatMapping'): _Token.MAPPING,
  ('haiku._src.data_structures', 'FlatMap'): _Token.MAPPING,
  ('haiku._src.data_structures', 'frozendict'): _Token.MAPPING,
  ('dill._dill', '_import_module'): _Token.IMPORT_MODULE,
  ('dill._dill', '_get_attr'): _Token.GET_ATTR,
  ('numpy', 'ndarray'): _Token.NDARRAY,
  ('numpy', 'dtype'): _Token.DTYPE,
  **{(module, '_reconstruct'): _Token.RECONSTRUCT for module in _NUMPY_CORE},
}


# Compared by identity, so that no comparison below can look inside them.
@dataclasses.dataclass(eq=False, slots=True)
class _Bytes:
  value: np.ndarray  # uint8 [n]


@dataclasses.dataclass(eq=False, slots=True)
class _Dtype:
  value: str


@dataclasses.dataclass(eq=False, slots=True)
class _Array:
  value: np.ndarray | None = None  # None until its state was read


class _Refusal(Exception):
  """Why a file is refused."""


def read_tree(path: str | os.PathLike) -> Tree:
  """Reads published weights, or any pickle with their layout (protocols 3 and 4).

  Nothing in the file is executed or imported, whatever it contains. Arrays take at most the file's
  size in memory, and everything else a few tens of megabytes.

  Args:
    path: the file: module path -> name -> float array, pickled from dicts or Haiku mappings.

  Returns:
    module path -> name -> writable little-endian array of the stored dtype (float16, float32 or
    float64), shape (`()` included) and order.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is truncated, damaged, of another format or contains anything else.
  """
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'there is no weights file {str(path)!r}.')
  with path.open('rb') as file:
    machine = _Machine(file, os.fstat(file.fileno()).st_size)
    try:
      return _as_tree(machine.run())
    except _Refusal as refusal:
      raise ValueError(
        f'{path} is refused at byte {machine.position}: {refusal}. Nothing in it was run; '
        f'use the file as its publisher released it.'
      ) from None


def _as_tree(root: Any) -> Tree:
  """Checks that what the file describes is module path -> name -> array."""
  if not isinstance(root, dict) or not root:
    raise _Refusal('the file does not hold module path -> name -> array')
  tree: Tree = {}
  for module, entries in root.items():
    if not isinstance(entries, dict) or not entries:
      raise _Refusal(f'module {module[:80]!r} does not hold name -> array')
    for name, leaf in entries.items():
      if not isinstance(leaf, _Array) or leaf.value is None:
        raise _Refusal(f'{module[:80]!r}, {name[:80]!r} is not an array')
    tree[module] = {name: leaf.value for name, leaf in entries.items()}
  return tree


class _Machine:
  """The stack machine. Its methods for the opcodes are named in _OPCODES."""

  def __init__(self, file: io.BufferedReader, size: int):
    self.file = file
    self.size = size
    self.position = 0  # of the opcode at work
    self.stack: list[Any] = []
    self.outer: list[list[Any]] = []  # the stacks below the open marks
    self.memo: dict[int, Any] = {}

  def run(self) -> Any:
    """Follows the program to its end and returns the one value it leaves."""
    if self.read(1) != pickle.PROTO or self.number(1) not in (3, 4):
      raise _Refusal('it does not begin as a pickle of protocol 3 or 4')
    for _ in range(_MAX_OPCODES):
      self.position = self.file.tell()
      opcode = self.read(1)
      if opcode == pickle.STOP:
        value = self.pop()
        if self.stack or self.outer or self.file.tell() != self.size:
          raise _Refusal('something is left over after its end')
        return value
      step = _OPCODES.get(opcode)
      if step is None:
        raise _Refusal(f'opcode {opcode!r} does not occur in weights')
      step(self)
    raise _Refusal(f'it has more than {_MAX_OPCODES} opcodes, far more than weights need')

  # Reading. Every length is compared with what the file still holds before anything is allocated.

  def require(self, count: int) -> None:
    """Refuses a file with fewer than count bytes left."""
    left = self.size - self.file.tell()
    if not 0 <= count <= left:
      raise _Refusal(f'{count} bytes should follow and {left} do: the file is truncated or damaged')

  def read(self, count: int) -> bytes:
    self.require(count)
    return self.file.read(count)

  def number(self, count: int, signed: bool = False) -> int:
    return int.from_bytes(self.read(count), 'little', signed=signed)

  def text(self, count: int) -> str:
    if count > _MAX_TEXT:
      raise _Refusal(f'a name of {count} bytes is longer than any in weights')
    try:
      return self.read(count).decode()
    except UnicodeDecodeError:
      raise _Refusal('a name is not UTF-8 text') from None

  def line(self) -> str:
    line = self.file.readline(_MAX_TEXT)
    if not line.endswith(b'\n'):
      raise _Refusal('a name has no end: the file is truncated or damaged')
    return line[:-1].decode('ascii', 'backslashreplace')

  # The stack.

  def push(self, value: Any) -> None:
    self.stack.append(value)

  def pop(self) -> Any:
    if not self.stack:
      raise _Refusal('a value is missing')
    return self.stack.pop()

  def pop_tuple(self, count: int) -> None:
    self.push(tuple(reversed([self.pop() for _ in range(count)])))

  def mark(self) -> None:
    self.outer.append(self.stack)
    self.stack = []

  def pop_mark(self) -> list[Any]:
    if not self.outer:
      raise _Refusal('a mark is missing')
    values, self.stack = self.stack, self.outer.pop()
    return values

  def put(self, index: int) -> None:
    self.memo[index] = self.pop()
    self.push(self.memo[index])

  def get(self, index: int) -> None:
    if index not in self.memo:
      raise _Refusal('it refers to a value that it does not hold')
    self.push(self.memo[index])

  # The opcodes that are more than a line.

  def read_bytes(self, count: int) -> None:
    self.require(count)
    data = np.empty(count, np.uint8)
    if self.file.readinto(memoryview(data)) != count:
      raise _Refusal('the file became shorter while it was read')
    self.push(_Bytes(data))

  def find_global(self, module: Any, name: Any) -> None:
    if not (isinstance(module, str) and isinstance(name, str)):
      raise _Refusal('a name is not text')
    token = _GLOBALS.get((module, name))
    if token is None:
      raise _Refusal(f'it wants {module[:80]!r}, {name[:80]!r}, which weights do not need')
    self.push(token)

  def stack_global(self) -> None:
    name, module = self.pop(), self.pop()
    self.find_global(module, name)

  def set_items(self, items: list[Any]) -> None:
    target = self.pop()
    if not isinstance(target, dict) or len(items) % 2:
      raise _Refusal('items are set in something that is not a mapping')
    for key, value in zip(items[::2], items[1::2], strict=True):
      # Text only: hashing a nested tuple could take forever.
      if not isinstance(key, str) or key in target:
        raise _Refusal('a key is not text or occurs twice')
      target[key] = value
    self.push(target)

  def reduce(self) -> None:
    """Does what each of the allowed calls means here."""
    arguments, function = self.pop(), self.pop()
    if not isinstance(function, _Token) or not isinstance(arguments, tuple):
      _refuse_call(function)
    match function, arguments:
      case _Token.MAPPING, (dict() as mapping,):
        self.push(mapping)
      case _Token.IMPORT_MODULE, (str() as module,) if module in _NUMPY_CORE:
        self.push(_Token.NUMPY_CORE)
      case _Token.GET_ATTR, (_Token.NUMPY_CORE, '_reconstruct'):
        self.push(_Token.RECONSTRUCT)
      case _Token.RECONSTRUCT, (_Token.NDARRAY, (0,), _Bytes()):
        self.push(_Array())
      case _Token.DTYPE, (str() as name, 0, 1) if name in _DTYPES:
        self.push(_Dtype(name))
      case _:
        _refuse_call(function)

  def build(self) -> None:
    """Fills an array; for a dtype, checks that its state is the plain one."""
    state, target = self.pop(), self.pop()
    if isinstance(target, _Dtype):
      if state != (3, '<', None, None, None, -1, -1, 0):
        raise _Refusal('a dtype is not plain and little-endian')
    elif isinstance(target, _Array) and target.value is None:
      target.value = _make_array(state)
    else:
      raise _Refusal('a state is given to something that is not a new array')
    self.push(target)


def _refuse_call(function: Any) -> Never:
  what = function.name if isinstance(function, _Token) else type(function).__name__
  raise _Refusal(f'a call of {what.lower()} is not as in weights')


def _make_array(state: Any) -> np.ndarray:
  """The array of a state (1, shape, dtype, is in Fortran order, bytes): a view of the bytes."""
  match state:
    case (1, tuple() as shape, _Dtype(value=name), bool() as fortran, _Bytes(value=data)):
      pass
    case _:
      raise _Refusal('the state of an array is not (1, shape, dtype, order, bytes)')
  if len(shape) > _MAX_DIMENSIONS or not all(type(size) is int and size > 0 for size in shape):
    raise _Refusal('the shape of an array is not a few positive numbers')
  dtype = np.dtype(f'<{name}')
  if math.prod(shape) * dtype.itemsize != data.size:
    raise _Refusal(f'an array of {name} and shape {shape} cannot have {data.size} bytes')
  return data.view(dtype).reshape(shape, order='F' if fortran else 'C')


_OPCODES: dict[bytes, Callable[[_Machine], None]] = {
  pickle.FRAME: lambda m: m.require(m.number(8)),
  pickle.MARK: _Machine.mark,
  pickle.NONE: lambda m: m.push(None),
  pickle.NEWTRUE: lambda m: m.push(True),
  pickle.NEWFALSE: lambda m: m.push(False),
  pickle.BININT: lambda m: m.push(m.number(4, signed=True)),
  pickle.BININT1: lambda m: m.push(m.number(1)),
  pickle.BININT2: lambda m: m.push(m.number(2)),
  pickle.BINUNICODE: lambda m: m.push(m.text(m.number(4))),
  pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.number(1))),
  pickle.SHORT_BINBYTES: lambda m: m.read_bytes(m.number(1)),
  pickle.BINBYTES: lambda m: m.read_bytes(m.number(4)),
  pickle.BINBYTES8: lambda m: m.read_bytes(m.number(8)),
  pickle.EMPTY_TUPLE: lambda m: m.push(()),
  pickle.TUPLE1: lambda m: m.pop_tuple(1),
  pickle.TUPLE2: lambda m: m.pop_tuple(2),
  pickle.TUPLE3: lambda m: m.pop_tuple(3),
  pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
  pickle.EMPTY_DICT: lambda m: m.push({}),
  pickle.SETITEM: lambda m: m.set_items([m.pop(), m.pop()][::-1]),
  pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
  pickle.BINPUT: lambda m: m.put(m.number(1)),
  pickle.LONG_BINPUT: lambda m: m.put(m.number(4)),
  pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
  pickle.BINGET: lambda m: m.get(m.number(1)),
  pickle.LONG_BINGET: lambda m: m.get(m.number(4)),
  pickle.GLOBAL: lambda m: m.find_global(m.line(), m.line()),
  pickle.STACK_GLOBAL: _Machine.stack_global,
  pickle.REDUCE: _Machine.reduce,
  pickle.BUILD: _Machine.build,
}
