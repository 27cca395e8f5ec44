"""Folded networks are the networks they came from."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import deploy, weights, zoo

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
  images = recipe.images(3, (2, 40, 40, 3))
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


def test_what_cannot_be_folded_is_refused(recipe, recipe_params):
  images = recipe.images(6, (1, 32, 32, 3))
  _, params = random_params(SPECS['published'], images, recipe_params)
  folded, spec = deploy.fold(params, SPECS['published'])
  with pytest.raises(ValueError, match='folded already'):
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


@pytest.mark.slow
def test_folded_f0_equals_f0(recipe, recipe_params, golden):
  images = recipe.images(1, (2, 96, 96, 3))
  spec = zoo.get_spec('F0')
  _, params = random_params(spec, images, recipe_params, num_classes=1000)
  folded, folded_spec = deploy.fold(params, spec)
  want = golden('models')['nfnet_f0_96/logits']
  got = run(folded_network(folded_spec, 1000), folded, jnp.asarray(images))['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
