import importlib
import subprocess
import sys

import pytest

from nfnets import host_memory

COUNT_FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == 'keep':
  import nfnets.host_memory
  assert nfnets.host_memory.keep_freed_memory()
faults = []
for _ in range(3):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = np.empty(50 * 2**20, np.uint8)
  block[::4096] = 1  # a byte of each page
  del block
  faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults_of_the_third_block(keep):
  command = [sys.executable, '-c', COUNT_FAULTS, 'keep' if keep else 'leave']
  return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='glibc only')
def test_a_freed_block_is_used_again():
  pages = 50 * 2**20 // 4096
  assert faults_of_the_third_block(keep=True) < pages / 20


def test_other_systems_are_left_alone(monkeypatch):
  monkeypatch.setattr(sys, 'platform', 'darwin')
  assert not host_memory.keep_freed_memory()


def test_an_accelerator_is_seen_by_its_plug_in(monkeypatch):
  monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: ())
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert not host_memory.accelerator_is_installed()
  monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: ('cuda13',))
  assert host_memory.accelerator_is_installed()
