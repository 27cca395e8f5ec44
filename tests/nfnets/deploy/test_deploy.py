"""Folded networks are the networks they came from."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import baselines, deploy, execution, weights, zoo
from nfnets.spec import FastTrunk

SMALL = {'width': (32, 64), 'depth': (1, 2), 'stride': (1, 2), 'group_width': 8}

# One network of each kind that folds differently.
SPECS = {
  'published': nfnets.ModelSpec(**SMALL),
  'no attention': nfnets.ModelSpec(**SMALL, se_ratio=0.0, activation='silu'),
  'strided shortcut, no final convolution': zoo.get_spec('NF-ResNet-50').replace(
    width=(32, 64), depth=(1, 2), stride=(1, 2), stem=((7, 2, 16),)
  ),
  'attention before the last convolution': zoo.get_spec('NF-RegNet-B0').replace(
    width=(32, 64), depth=(1, 2), stem=((3, 2, 24),)
  ),
  'gamma in convolutions, efficient attention': zoo.get_spec('eca_nfnet_l0').replace(
    **(SMALL | {'width': (32, 64)}), stem=((3, 2, 16),)
  ),
  'two trunks': nfnets.ModelSpec(
    **SMALL | {'stride': (1, (1, 2)), 'depth': 1},
    family='slow_fast_nf_net',
    kernel=(1, (3, 1)),
    second_kernel=((1, 3), (1, 3)),
    in_channels=1,
    stem=(((1, 3), 2, 8), ((3, 3), (1, 2), 16)),
    fast=FastTrunk(
      width=(16, 32),
      stem=((3, 2, 4), ((3, 3), (1, 2), 8)),
      group_width=4,
      kernel=((3, 1), (3, 1)),
      second_kernel=((1, 3), (1, 3)),
      lateral_width=(12, 16),
    ),
  ),
}


BASELINES = {
  'ResNet-v2': zoo.get_spec('BN-ResNet-50').replace(
    width=(16, 32), depth=(1, 2), stride=(1, 2), stem=((7, 2, 8),)
  ),
  'SE-ResNeXt-D': zoo.get_spec('BN-SE-ResNeXt-D-50').replace(
    width=(16, 32), depth=(2, 1), stride=(1, 2), group_width=4, stem=((3, 2, 8), (3, 1, 8))
  ),
  'BN-F0': zoo.get_spec('BN-F0').replace(
    width=(16, 32), depth=(2, 1), stride=(1, 2), group_width=4, head_channels=40, stem=((3, 2, 8),)
  ),
  'EfficientNet': zoo.get_spec('EfficientNet-B0').replace(
    stages=((1, 3, 1, 8, 1), (6, 5, 2, 16, 2)), stem_channels=8, head_channels=32
  ),
}


def random_params(spec, images, recipe_params, num_classes=7):
  def network(x):
    return zoo.create_model(spec, num_classes)(x, is_training=False)

  return network, recipe_params(network, images)


def run(network, params, images):
  return jax.jit(hk.without_apply_rng(hk.transform(network)).apply)(params, images)


def folded_network(spec, num_classes=7):
  return lambda x: zoo.create_model(spec, num_classes)(x, is_training=False)


@pytest.mark.parametrize('kind', SPECS)
def test_a_folded_network_gives_the_same_outputs(kind, recipe, recipe_params):
  images = recipe.images(3, (2, 40, 40, SPECS[kind].in_channels))
  network, params = random_params(SPECS[kind], images, recipe_params)
  folded, spec = deploy.fold(params, SPECS[kind])
  want, got = run(network, params, images), run(folded_network(spec), folded, images)
  for output in ('pool', 'logits'):
    scale = np.abs(want[output]).max()
    np.testing.assert_allclose(got[output], want[output], rtol=0, atol=1e-4 * scale)
  assert {name for entries in folded.values() for name in entries} == {'w', 'b'} or kind.endswith(
    'efficient attention'
  )
  shapes = jax.eval_shape(hk.transform(folded_network(spec)).init, jax.random.key(0), images)
  weights.merge(shapes, folded)  # the spec alone builds the folded tree
  count = sum(np.size(x) for x in jax.tree.leaves(params))
  assert sum(np.size(x) for x in jax.tree.leaves(folded)) < count


def test_a_branch_that_is_switched_off_stays_off(recipe, recipe_params):
  images = recipe.images(4, (1, 32, 32, 3))
  network, params = random_params(SPECS['published'], images, recipe_params)
  params['NFNet/~/nf_block_1']['skip_gain'] = np.float32(0)
  folded, spec = deploy.fold(params, SPECS['published'])
  want, got = run(network, params, images), run(folded_network(spec), folded, images)
  assert np.all(np.isfinite(got['logits']))
  np.testing.assert_allclose(got['logits'], want['logits'], rtol=1e-4, atol=1e-5)


def test_a_folded_file_alone_rebuilds_its_network(recipe, recipe_params, tmp_path):
  images = recipe.images(5, (1, 32, 32, 3))
  network, params = random_params(SPECS['published'], images, recipe_params)
  folded, spec = deploy.fold(params, SPECS['published'])
  weights.save(tmp_path / 'folded.safetensors', folded, spec=spec.to_dict())
  loaded, metadata = weights.load(tmp_path / 'folded.safetensors')
  again = nfnets.ModelSpec.from_dict(metadata['spec'])
  assert again == spec
  got = run(folded_network(again), loaded, images)['logits']
  want = run(network, params, images)['logits']
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_tiny_skip_gain_folds_finitely(recipe, recipe_params):
  images = recipe.images(4, (1, 32, 32, 3))
  spec = SPECS['published'].replace(width=(32,), depth=(2,), stride=(2,))
  network, params = random_params(spec, images, recipe_params)
  _, folded_spec = deploy.fold(params, spec)
  plain, folded = (
    jax.jit(hk.without_apply_rng(hk.transform(f)).apply)
    for f in (network, folded_network(folded_spec))
  )
  for gain in (1e-40, -1e-37, 1e-31, 1e-28):
    params['NFNet/~/nf_block_1']['skip_gain'] = np.float32(gain)
    want = plain(params, images)['logits']
    got = folded(deploy.fold(params, spec)[0], images)['logits']
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module', params=BASELINES)
def baseline(request, recipe):
  """(spec, tree with statistics, images, logits) of a network with batch normalisation."""
  spec = BASELINES[request.param]
  network = hk.transform_with_state(folded_network(spec))
  images = recipe.images(9, (2, 40, 40, 3))
  rng = np.random.default_rng(0)
  # Means and offsets of both signs, variances (of 'average') and scales above 0.
  params, state = jax.tree.map_with_path(
    lambda path, x: (
      rng.uniform(0.5, 2, x.shape)
      if path[-1].key in ('average', 'scale')
      else rng.normal(size=x.shape) * 0.3
    ).astype(x.dtype),
    jax.eval_shape(network.init, jax.random.key(0), images),
  )
  outputs, _ = jax.jit(network.apply)(params, state, None, images)
  return spec, baselines.join_state(params, state), images, np.asarray(outputs['logits'])


def test_batch_normalisation_folds_into_convolutions(baseline, tmp_path):
  spec, tree, images, want = baseline
  got = jax.jit(deploy.predictor(tree, spec))(images)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())
  folded, folded_spec = deploy.fold(tree, spec)
  assert folded_spec == spec.replace(folded=True)
  got = jax.jit(deploy.predictor(folded, folded_spec))(images)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
  assert not any('state/' in module or 'batch_norm' in module for module in folded)
  # Only what follows a sum keeps a scale.
  scaled = {m.split('/')[-1] for m, entries in folded.items() if 'scale' in entries}
  follows_sum = {
    'ResNet-v2': {'norm0', 'final_norm'},
    'SE-ResNeXt-D': {'norm0', 'final_norm'},
    'BN-F0': {'norm0'},
    'EfficientNet': set(),
  }
  kind = next(name for name, baseline_spec in BASELINES.items() if baseline_spec == spec)
  assert scaled == follows_sum[kind]
  with pytest.raises(ValueError, match='already folded'):
    deploy.fold(folded, folded_spec)
  weights.save(tmp_path / 'w.safetensors', folded, spec=folded_spec.to_dict())
  params, again, _ = nfnets.load_pretrained(tmp_path / 'w.safetensors')
  assert again == folded_spec
  assert nfnets.Classifier(params, again).num_classes == 7


def test_an_export_carries_the_statistics(recipe, tmp_path):
  spec = BASELINES['ResNet-v2'].replace(width=(16,), depth=(1,), stride=(1,))
  network = hk.transform_with_state(folded_network(spec))
  images = recipe.images(2, (2, 32, 32, 3))
  params, state = jax.tree.map(
    lambda x: np.full(x.shape, 0.3, x.dtype),
    jax.eval_shape(network.init, jax.random.key(0), images),
  )
  want, _ = jax.jit(network.apply)(params, state, None, images)
  tree = baselines.join_state(params, state)
  deploy.export_stablehlo(tmp_path / 'net', tree, spec, size=32)
  got = deploy.load_stablehlo(tmp_path / 'net')(images)
  np.testing.assert_allclose(got, want['logits'], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_folded_is_refused(recipe, recipe_params):
  images = recipe.images(6, (1, 32, 32, 3))
  _, params = random_params(SPECS['published'], images, recipe_params)
  folded, spec = deploy.fold(params, SPECS['published'])
  with pytest.raises(ValueError, match='already folded'):
    deploy.fold(folded, spec)
  with pytest.raises(ValueError, match='nf_block_3'):
    deploy.fold(params, SPECS['published'].replace(depth=(1, 3)))


def test_an_exported_file_runs_with_any_batch(recipe, recipe_params, tmp_path):
  images = recipe.images(7, (3, 32, 32, 3))
  network, params = random_params(SPECS['published'], images, recipe_params)
  folded, spec = deploy.fold(params, SPECS['published'])
  path = tmp_path / 'net.stablehlo'
  deploy.export_stablehlo(path, folded, spec, size=32)
  predict = deploy.load_stablehlo(path)
  want = run(network, params, images)['logits']
  np.testing.assert_allclose(predict(images), want, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(predict(images[:1]), want[:1], rtol=1e-4, atol=1e-5)
  path.write_bytes(path.read_bytes()[:1000])
  with pytest.raises(ValueError, match='not a file that export_stablehlo wrote'):
    deploy.load_stablehlo(path)


def test_an_export_is_the_plain_program_whichever_machine_writes_it(
  recipe, recipe_params, tmp_path
):
  spec = SPECS['published'].replace(group_width=64, width=(128, 128))  # what a TPU rewrites
  _, params = random_params(spec, recipe.images(7, (1, 32, 32, 3)), recipe_params)
  files = []
  for strategy, packing in (('plain', 'off'), ('cpu', 'auto'), ('tpu', 'on')):
    with execution.strategy(strategy, space_to_depth=packing):
      deploy.export_stablehlo(tmp_path / strategy, params, spec, size=32, platforms=('cpu',))
    files.append((tmp_path / strategy).read_bytes())
  text = str(jax.export.deserialize(bytearray(files[0])).mlir_module())
  # One convolution for each of the network's: 4 + 3 blocks of 4 + 2 shortcuts + 1 at the end.
  assert text.count('= stablehlo.convolution(') == 4 + 3 * 4 + 2 + 1
  for file in files[1:]:
    other = str(jax.export.deserialize(bytearray(file)).mlir_module())
    assert other == text


def test_images_that_are_not_normalised_are_refused(recipe, recipe_params):
  _, params = random_params(SPECS['published'], recipe.images(7, (1, 32, 32, 3)), recipe_params)
  predict = deploy.predictor(params, SPECS['published'])
  with pytest.raises(ValueError, match='float32, got uint8: nfnets.inference.preprocess makes'):
    predict(jnp.zeros((1, 32, 32, 3), jnp.uint8))


@pytest.mark.slow
def test_folded_f0_equals_f0(recipe, recipe_params, golden):
  images = recipe.images(1, (2, 96, 96, 3))
  spec = zoo.get_spec('F0')
  _, params = random_params(spec, images, recipe_params, num_classes=1000)
  folded, folded_spec = deploy.fold(params, spec)
  want = golden('models')['nfnet_f0_96/logits']
  got = run(folded_network(folded_spec, 1000), folded, jnp.asarray(images))['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
