"""Trees and the networks that they are for: names of one's own, missing heads, grey images."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfnets
from nfnets import baselines, deploy, zoo
from nfnets.weights import fit, load_pretrained, save, to_timm

SPEC = nfnets.ModelSpec(
  width=(16,), depth=(1,), stride=(1,), group_width=8, stem=((3, 2, 8),), test_size=24
)
RESNET = baselines.ResNetSpec(depth=(1,), width=(16,), stride=(1,), stem=((3, 2, 8),), test_size=24)
CLASSES = 5


class Outer(hk.Module):
  """A module that has a network in it."""

  def __init__(self):
    super().__init__(name='outer')
    self.network = nfnets.NFNet(CLASSES, SPEC, name='Inner')

  def __call__(self, images):
    return self.network(images, is_training=False)


NETWORKS = {
  'MyNet': (SPEC, lambda x: nfnets.NFNet(CLASSES, SPEC, name='MyNet')(x, is_training=False)),
  'outer/~/Inner': (SPEC, lambda x: Outer()(x)),
  'Mine': (RESNET, lambda x: baselines.ResNet(CLASSES, RESNET, name='Mine')(x, is_training=False)),
}


@pytest.fixture(scope='module')
def images(recipe):
  return recipe.images(8, (2, 24, 24, 3))


@pytest.fixture(scope='module', params=NETWORKS)
def named(request, images):
  """(name of the root, spec, tree, logits of a network that is called otherwise."""
  spec, function = NETWORKS[request.param]
  network = hk.transform_with_state(function)
  rng = np.random.default_rng(0)
  params, state = jax.tree.map(
    lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype),
    jax.eval_shape(network.init, jax.random.key(0), images),
  )
  outputs, _ = jax.jit(network.apply)(params, state, None, images)
  return request.param, spec, baselines.join_state(params, state), np.asarray(outputs['logits'])


def assert_near(got, want):
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_name_of_its_own_works_everywhere(named, images, tmp_path):
  name, spec, tree, want = named
  assert all(m.removeprefix('state/').startswith(f'{name}/~/') for m in tree)
  assert set(fit(tree, spec)) == set(zoo.parameter_shapes(spec, CLASSES))
  assert_near(jax.jit(deploy.predictor(tree, spec))(images), want)
  folded, folded_spec = deploy.fold(tree, spec)
  assert_near(jax.jit(deploy.predictor(folded, folded_spec))(images), want)
  path = tmp_path / 'w.safetensors'
  save(path, tree, spec=spec.to_dict())
  loaded = load_pretrained(path)
  assert_near(jax.jit(deploy.predictor(loaded.params, loaded.spec))(images), want)
  head = f'{spec.family}/~/linear'
  assert load_pretrained(path, num_classes=2).params[head]['b'].shape == (2,)
  for weights in (tree, loaded.params):
    classifier = nfnets.Classifier(weights, spec)
    assert classifier.num_classes == CLASSES
    for runtime in ('_engine', '_xla'):
      compute = getattr(classifier, runtime)
      assert_near(compute(np.asarray(images), ('logits',), len(images))['logits'], want)


def test_a_name_of_its_own_goes_to_timm():
  spec = zoo.get_spec('test_nfnet')
  params = {
    module: {n: np.ones(a.shape, np.float32) for n, a in entries.items()}
    for module, entries in zoo.parameter_shapes(spec, 3).items()
  }
  mine = {m.replace('NFNetLight', 'Mine'): entries for m, entries in params.items()}
  want, got = to_timm(params, spec), to_timm(mine, spec)
  assert list(got) == list(want)
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_several_networks_and_other_families_are_refused():
  params = zoo.parameter_shapes(SPEC, CLASSES)
  two = {**params, **{m.replace('NFNet', 'Teacher'): e for m, e in params.items()}}
  with pytest.raises(ValueError, match='one network and got those of NFNet, Teacher'):
    fit(two, SPEC)
  with pytest.raises(ValueError, match='those of none'):
    fit({}, SPEC)
  # Equal shapes and another function: no name of its own, but another family's.
  with pytest.raises(ValueError, match='of a network NFNet and the spec is of a NFNetLight'):
    fit(params, SPEC.replace(family='NFNetLight'))


def random(shapes):
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def test_weights_without_a_classifier_say_how_to_get_one():
  trunk = random(zoo.parameter_shapes(SPEC, CLASSES))
  del trunk['NFNet/~/linear']
  assert set(fit(trunk, SPEC)) == set(trunk)
  folded, spec = deploy.fold(trunk, SPEC)
  assert fit(folded, spec).keys() == folded.keys()
  for use in (nfnets.Classifier, deploy.predictor):
    with pytest.raises(
      ValueError, match=r'no classifier \(NFNet/~/linear .*finetune.new_head=True'
    ):
      use(trunk, SPEC)


@pytest.mark.parametrize('spec', [SPEC, RESNET], ids=['standardised', 'plain'])
def test_a_network_for_grey_images_becomes_one_for_rgb_as_the_message_says(spec, images):
  network = hk.transform_with_state(lambda x: zoo.create_model(spec, CLASSES)(x, False)['logits'])
  grey = images[..., :1]
  params, state = jax.eval_shape(network.init, jax.random.key(0), grey)
  params, state = random(params), jax.tree.map(lambda x: np.ones(x.shape, x.dtype), state)
  want, _ = jax.jit(network.apply)(params, state, None, grey)
  stem = f'{spec.family}/~/stem_conv0'
  advice = f'{stem}/gain by sqrt' if spec is SPEC else f'{stem}/w by 3'
  with pytest.raises(ValueError, match=f'repeat {stem}/w 3 times .* divide {advice}'):
    fit(baselines.join_state(params, state), spec)
  divided = {'gain': params[stem]['gain'] / 3**0.5} if spec is SPEC else {}
  w = np.repeat(params[stem]['w'], 3, axis=2) / (1 if divided else 3)
  rgb = {**params, stem: {**params[stem], 'w': w, **divided}}
  got = deploy.predictor(baselines.join_state(rgb, state), spec)(jnp.repeat(grey, 3, axis=-1))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
