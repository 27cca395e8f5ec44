"""Damaged copies of the small file in the layout of DeepMind's release."""

import pickletools
from pathlib import Path

import numpy as np
import pytest

TINY = Path(__file__).parents[2] / 'golden' / 'deepmind_format_tiny_haiku.npz'


@pytest.fixture(scope='session')
def mutated_copies():
  """A hundred (bytes, whether only numbers inside arrays were changed), always the same."""
  return _mutations(seed=0, count=100)


def _mutations(seed: int, count: int) -> list[tuple[bytes, bool]]:
  """Damaged copies of the tiny release: (bytes, whether only numbers of arrays were changed)."""
  data = TINY.read_bytes()
  numbers = np.zeros(len(data), bool)
  for opcode, value, position in pickletools.genops(data):
    if opcode.name in ('BINBYTES', 'SHORT_BINBYTES') and len(value) > 1:
      start = position + (5 if opcode.name == 'BINBYTES' else 2)
      numbers[start : start + len(value)] = True
  program = np.flatnonzero(~numbers)  # what is not numbers, 2% of the file
  random = np.random.default_rng(seed)
  copies = []
  for index in range(count):
    copy = bytearray(data)
    positions = random.choice(program if index % 4 else len(data), 1 + index % 3)
    kind = ('set', 'flip', 'delete', 'insert', 'repeat')[index % 5]
    for position in sorted(map(int, positions), reverse=True):
      length = int(random.integers(1, 9))
      if kind == 'set':
        copy[position] = random.integers(256)
      elif kind == 'flip':
        copy[position] ^= 1 << random.integers(8)
      elif kind == 'delete':
        del copy[position : position + length]
      elif kind == 'insert':
        copy[position:position] = random.bytes(length)
      else:
        copy[position:position] = copy[position : position + length]
    only_numbers = kind in ('set', 'flip') and all(numbers[positions])
    copies.append((bytes(copy), only_numbers))
  return copies
