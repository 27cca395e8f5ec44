"""The limit of open files."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[3]
CODE = """
import resource
from experiments.runtime import open_files

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
open_files.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_soft_limit_becomes_the_hard_one():
  done = subprocess.run([sys.executable, '-c', CODE], cwd=ROOT, capture_output=True, text=True)
  assert done.stdout == '(128, 128)\n', done.stderr
