"""The layout's rule: imports go only downward in the order below."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# Each layer may import the layers before it. Modules of one layer do not know each other; a package
# counts as one.
ORDER = [
  {
    'nfnets.activations',
    'nfnets.host_memory',
    'nfnets.installation',
    'nfnets.interruption',
    'nfnets.jpeg_decoder',
    'nfnets.labels',
    'nfnets.onnx_session',
    'nfnets.picture_files',
    'nfnets.pillow_decoder',
    'nfnets.sides',
  },
  {'nfnets.audio', 'nfnets.execution', 'nfnets.images'},
  {
    'nfnets.layers',
    'nfnets.spec',
    'nfnets.initialization',
    'nfnets.inference',
    'nfnets.sound_files',
  },
  {'nfnets.block_plan', 'nfnets.convert', 'nfnets.preprocessing', 'nfnets.picture_sources'},
  {'nfnets.backbone'},
  {'nfnets.nfnet', 'nfnets.nf_resnet', 'nfnets.nf_regnet'},
  {'nfnets.nfnet_light', 'nfnets.baselines', 'nfnets.slow_fast'},
  {'nfnets.zoo', 'nfnets.mean_field'},
  {'nfnets.optim', 'nfnets.weights', 'nfnets.signal_propagation', 'nfnets.flops'},
  {'nfnets.deploy'},
  {'nfnets.classifier', 'nfnets.embedder'},
  {'nfnets.demo'},
  {'nfnets'},
  {'nfnets.cli'},
  {'nfnets.__main__'},
  {'configs'},
  {'experiments.runtime'},
  {'experiments.data'},
  {'experiments.training'},
  {'experiments.pods', 'experiments.reporting'},
  {'experiments.evaluate', 'experiments.linear_probe'},
  {'experiments.train'},
  {'experiments'},
]
# The same rule inside two of the packages, whose `__init__` gives names and stands above all.
INSIDE = {
  'experiments.data': [
    {'batch', 'augment', 'prepare_tfds', 'unreadable'},
    {'ranges'},
    {'settings'},
    {'handover', 'sources'},
    {'identity', 'one_example', 'sizes'},
    {'poisson', 'sound_example'},
    {'examples'},
    {'collate'},
    {'pipeline'},
  ],
  'experiments.training': [
    {
      'gradients',
      'initial_weights',
      'privacy_budget',
      'same_run',
      'update_sharding',
      'work_directory',
    },
    {'secret', 'step_metrics'},
    {'private_gradients'},
    {'steps'},
    {'checkpoints', 'evaluation', 'nonfinite'},
    {'settings'},
  ],
}
# Who reads these parts of a config; everything else receives typed values.
READERS = {
  'model': 'experiments.training.settings',
  'optimizer': 'experiments.training.settings',
  'finetune': 'experiments.training.settings',
  'data': 'experiments.data',
  'private': 'experiments.training.settings',
}
FORBIDDEN_IN_LIBRARY = ('absl', 'ml_collections', 'tensorflow', 'grain', 'experiments', 'configs')


def files(package):
  return sorted((ROOT / package).rglob('*.py'))


def module_name(path):
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imported_modules(path):
  """Every module that a file imports, submodules named in `from package import name` included."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path} imports relatively'
      for alias in node.names:
        name = f'{node.module}.{alias.name}'
        yield name if is_module(name) else node.module


def is_module(name):
  path = ROOT.joinpath(*name.split('.'))
  return path.with_suffix('.py').exists() or (path / '__init__.py').exists()


def unit(name):
  """What ORDER lists: a module or package of the first or second level."""
  return '.'.join(name.split('.')[:2]) if name.split('.')[0] != 'configs' else 'configs'


def rank(name):
  places = [place for place, layer in enumerate(ORDER) if unit(name) in layer]
  assert places, f'{unit(name)} has no place in ORDER: add it to this test and to the layout'
  return places[0]


@pytest.mark.parametrize(
  'path', [p for p in files('nfnets') + files('experiments') if p.read_text()], ids=module_name
)
def test_imports_go_downward(path):
  importer = module_name(path)
  for imported in imported_modules(path):
    own = imported.split('.')[0] in ('nfnets', 'experiments', 'configs')
    if own and unit(imported) != unit(importer):
      assert rank(imported) < rank(importer), f'{importer} imports {imported}'


@pytest.mark.parametrize('package', INSIDE)
def test_imports_inside_a_package_go_downward(package):
  def place(name):
    part = name.removeprefix(f'{package}.').split('.')[0]
    (found,) = [i for i, layer in enumerate(INSIDE[package]) if part in layer]
    return part, found

  for path in files(package.replace('.', '/')):
    importer = module_name(path)
    if importer == package:
      continue
    part, own = place(importer)
    for imported in imported_modules(path):
      if imported.startswith(f'{package}.'):
        other, below = place(imported)
        assert other == part or below < own, f'{importer} imports {imported}'
      # Nothing below asks for the names that the package gives.
      assert imported != package, f'{importer} imports {package}'


@pytest.mark.parametrize('path', files('experiments'), ids=module_name)
def test_parts_of_a_config_are_read_in_one_place(path):
  importer = module_name(path)
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Attribute) and node.attr in READERS:
      of_config = isinstance(node.value, ast.Name) and node.value.id == 'config'
      assert not of_config or importer.startswith(READERS[node.attr]), f'config.{node.attr}'


@pytest.mark.parametrize('path', files('nfnets'), ids=module_name)
def test_the_library_knows_nothing_of_training(path):
  for imported in imported_modules(path):
    assert imported.split('.')[0] not in FORBIDDEN_IN_LIBRARY, imported


@pytest.mark.parametrize('path', files('configs'), ids=module_name)
def test_configs_import_only_their_base(path):
  for imported in imported_modules(path):
    assert imported.split('.')[0] == 'ml_collections' or imported in ('configs', 'configs.base')


@pytest.mark.parametrize('package', ['nfnets', 'experiments', 'configs'])
def test_nothing_imports_scripts(package):
  for path in files(package):
    assert not any(i.split('.')[0] == 'scripts' for i in imported_modules(path)), path
