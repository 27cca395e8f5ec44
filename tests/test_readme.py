"""The Python of the README and of docs/ runs as it stands; files that the README names exist."""

import math
import pathlib
import re

import pytest

import nfnets.nfnet
from nfnets.weights import published

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # what a block writes stays out of the tree
  names = {}  # the blocks of a page build on one another
  for block in re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL):
    exec(compile(block, page.name, 'exec'), names)


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


def test_the_table_of_weights_says_what_the_code_says():
  page = (ROOT / 'docs/models.md').read_text()
  rows = re.findall(
    r'^\| \[?`(\w+)`(?:\]\((.*)\))? \| ([\d.]+) M \| (\d+) \| [\d.]+ G \| [\d.]+ \| '
    r'(?:\d+(?: at \d+ px)? )?\| ([\d,]+) MB \|$',
    page,
    re.MULTILINE,
  )
  assert [row[0] for row in rows] == [*published.DEEPMIND, *published.TIMM]
  for name, link, millions, size, megabytes in rows:
    assert int(size) == published.preprocessing_of(name).size
    if name == 'F0' or not name.startswith(('F', 'dm')):  # shapes of the large ones take seconds
      shapes = nfnets.zoo.parameter_shapes(name, 1000)
      count = sum(math.prod(x.shape) for entries in shapes.values() for x in entries.values())
      assert float(millions) == round(count / 1e6, 1)
    if name in published.DEEPMIND:
      assert int(megabytes.replace(',', '')) == round(published.DEEPMIND[name].size / 1e6)
      assert not link
    else:
      assert link == f'https://huggingface.co/{published.TIMM[name].repository}'
