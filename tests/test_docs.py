"""The documentation: links, navigation, commands and quoted messages are those of the code."""

import ast
import functools
import importlib.util
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
import yaml

from configs import base
from experiments.runtime import config_files
from nfnets import cli
from scripts import mkdocs_hooks

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
TEXTS = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'CHANGELOG.md', *PAGES]

_LINK = re.compile(r'\]\(([^)\s]+)\)')
_FENCE = re.compile(r'^```.*?^```$', re.DOTALL | re.MULTILINE)
# A program of this repository, at the start of a line or of an inline code span, and its words.
_COMMAND = re.compile(
  r'(?:^[ ]*|`)(?:\.venv/bin/)?(?:python (scripts/\w+\.py)|\./(scripts/\w+\.sh)|'
  r'python -m (experiments\.\w+)|nfnets ([a-z][\w-]+))((?: [^`\n]*)?)',
  re.MULTILINE,
)


def _name(page):
  return str(page.relative_to(ROOT))


def _anchors(page):
  """The ids that the headings of a page get, as GitHub and MkDocs make them."""
  titles = re.findall(r'^#+ (.*)$', _FENCE.sub('', page.read_text()), re.MULTILINE)
  return {re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', title.lower()).strip()) for title in titles}


@pytest.mark.parametrize('page', TEXTS, ids=_name)
def test_relative_links_resolve(page):
  for link in _LINK.findall(_FENCE.sub('', page.read_text())):
    parts = urllib.parse.urlsplit(link)
    if parts.scheme:
      assert parts.scheme == 'https', link
      continue
    target = (page.parent / parts.path).resolve() if parts.path else page
    assert target.exists(), f'{link} leads nowhere'
    # The site has nothing outside docs/.
    assert DOCS not in page.parents or target.is_relative_to(DOCS), f'{link} leaves docs/'
    if parts.fragment and target.suffix == '.md':
      assert parts.fragment in _anchors(target), f'{link} has no such heading'


def test_every_page_is_in_the_navigation_once():
  def files(entry):
    if isinstance(entry, str):
      return [entry]
    parts = entry if isinstance(entry, list) else entry.values()
    return [file for part in parts for file in files(part)]

  listed = files(yaml.safe_load((ROOT / 'mkdocs.yml').read_text())['nav'])
  assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]


def _commands():
  """Every command of this repository that a text shows: (text, program, words after it)."""
  for page in TEXTS:
    text = re.sub(r'\\\n\s*', '', page.read_text())  # continued lines
    for script, shell, module, command, words in _COMMAND.findall(text):
      module = cli.COMMANDS[command].module if command else module
      program = script or shell or f'{module.replace(".", "/")}.py'
      yield pytest.param(program, words.partition('#')[0], id=f'{page.name}: {program}{words}'[:90])


@functools.cache
def _options(program):
  """The options that a program's source defines, those of its parts included."""
  path = {
    'scripts/train.sh': 'experiments/train.py',
    'scripts/prepare_imagenet.sh': 'scripts/prepare_tfds.py',
  }.get(program, program)
  sources = [(ROOT / path).read_text()]
  if 'experiments' in sources[0] and 'absl' in sources[0]:
    sources += [
      (ROOT / f'experiments/runtime/{part}.py').read_text()
      for part in ('command_line', 'processes')
    ]
  found = re.findall(r"['\"]--([\w-]+)['\"]", sources[0])
  for source in sources:
    found += re.findall(r"DEFINE_\w+\(\s*'(\w+)'", source)
  return set(found)


@pytest.mark.parametrize(('program', 'words'), _commands())
def test_commands_name_programs_options_and_fields_that_exist(program, words, monkeypatch):
  assert (ROOT / program).exists(), program
  if program == 'scripts/test.sh':
    return  # its words are pytest's
  for option, value in re.findall(r'(?<=\s)--([\w.-]+)(?:=(\S+))?', words):
    if option.startswith('config.'):
      node = base.get_config()
      for field in option.split('.')[1:]:
        assert field in node, f'configs/base.py has no {option}'
        node = node[field] if hasattr(node, 'keys') else node.get_ref(field)
      continue
    assert option in _options(program), f'{program} has no --{option}'
    if option == 'config':
      monkeypatch.chdir(ROOT)
      config_files.find(value)  # raises what does not exist


def test_the_check_of_commands_sees_them():
  seen = [str(parameters.id) for parameters in _commands()]
  assert any('--topology' in words for words in seen)
  assert any(words.startswith('README.md: scripts/train.sh') for words in seen)
  assert {'workdir', 'coordinator', 'debug', 'config'} <= _options('scripts/train.sh')
  assert 'weights' in _options('scripts/predict.py')
  assert any(words.startswith('demo.md: nfnets/demo/__main__.py') for words in seen)
  assert 'examples' in _options('nfnets/demo/__main__.py')


def _sentences(source):
  """The texts in a source, f-strings with … for what they fill in."""
  tree = ast.parse(source)
  filled = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
  inner = {id(part) for node in filled for part in node.values}
  for node in ast.walk(tree):
    if isinstance(node, ast.JoinedStr):
      yield '…'.join(part.value if isinstance(part, ast.Constant) else '' for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
      yield node.value


def test_messages_that_the_page_on_trouble_quotes_are_in_the_code():
  sources = [*(ROOT / 'nfnets').rglob('*.py'), *(ROOT / 'experiments').rglob('*.py')]
  said = '\n'.join(text for path in sources for text in _sentences(path.read_text()))
  quoted = re.findall(r'^> (.*)$', (DOCS / 'troubleshooting.md').read_text(), re.MULTILINE)
  assert len(quoted) > 15
  for message in quoted:
    for part in filter(None, re.split(r'\s*…\s*', message)):
      assert part.strip() in said, f'no program says {part!r}'


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path):
  for module in ('mkdocs', 'material', 'mkdocstrings', 'mkdocstrings_handlers'):
    if importlib.util.find_spec(module) is None:
      pytest.skip(f"{module} is not installed: pip install -e '.[docs]'")
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert not re.search(r'^WARNING', done.stderr, re.MULTILINE), done.stderr
  for page in PAGES:
    place = page.relative_to(DOCS).with_suffix('')
    folder = place.parent if place.name == 'index' else place
    assert (tmp_path / 'site' / folder / 'index.html').exists(), page
  reference = (tmp_path / 'site/reference/optim/index.html').read_text()
  assert 'id="nfnets.optim.recipes.nfnet_sgd"' in reference
  assert 'Nesterov' in reference  # from the docstring
  assert 'accumulation_steps' in (tmp_path / 'site/reference/config/index.html').read_text()


def test_the_table_of_fields_has_every_field_and_its_meaning():
  def paths(section, path=''):
    for name, value in section.items():
      is_section = isinstance(value, dict) and value
      yield from paths(value, f'{path}{name}.') if is_section else [f'{path}{name}']

  table = mkdocs_hooks.fields_table((ROOT / 'configs/base.py').read_text())
  rows = [line.strip('| ').split(' | ') for line in table.splitlines()[2:]]
  assert {row[0].strip('`') for row in rows} == set(paths(base.get_config().to_dict()))
  assert all(len(row) == 3 and row[2] for row in rows)
