"""The README's Python runs as it stands, and its commands and files exist."""

import pathlib
import re

import pytest

import nfnets.nfnet

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
BLOCKS = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


@pytest.mark.parametrize('block', BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block):
  exec(compile(block, 'README.md', 'exec'), {})


def test_files_that_the_readme_names_exist():
  named = set(re.findall(r'(?:\./|=|\()((?:scripts|configs)/\w+\.(?:sh|py))', README))
  assert named >= {'scripts/train.sh', 'scripts/test.sh', 'configs/base.py'}
  for path in named:
    assert (ROOT / path).exists(), path


def test_the_table_of_models_says_what_the_code_says(trees):
  rows = re.findall(r'^\| (F\d) \| ([\d.]+) M \| (\d+) \| (\d+) \|', README, re.MULTILINE)
  assert [row[0] for row in rows] == [f'F{n}' for n in range(8)]
  for name, millions, train_size, test_size in rows:
    spec = nfnets.nfnet.VARIANTS[name]
    assert float(millions) == round(trees[f'NFNet/{name}']['params'] / 1e6, 1)
    assert (spec.train_size, spec.test_size) == (int(train_size), int(test_size))
