"""Parameter groups over every published tree and over users' own networks."""

import gzip
import json
from collections import Counter
from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets import optim, zoo
from nfnets.optim import UnknownParameterError, assign, clip_mask, decay_mask

with gzip.open(Path(__file__).parents[2] / 'golden' / 'trees.json.gz') as file:
  TREES = json.load(file)


def _shapes(tree):
  return {
    module: {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in entries.items()}
    for module, entries in tree.items()
  }


@pytest.mark.parametrize('variant', sorted(TREES))
def test_published_trees(variant):
  tree = TREES[variant]['tree']
  shapes = _shapes(tree)
  groups = assign(shapes)
  assert jax.tree.structure(groups) == jax.tree.structure(shapes)

  root = variant.split('/')[0]
  classifiers = [(m, n) for m in groups for n, group in groups[m].items() if group == 'classifier']
  assert classifiers == [(f'{root}/~/linear', 'w')]
  # Independent of names: here 2-D and 4-D arrays are the weights, the rest gains and biases.
  counts = Counter(jax.tree.leaves(groups))
  ranks = Counter(len(shape) for entries in tree.values() for shape in entries.values())
  assert counts['gains_and_biases'] == ranks[0] + ranks[1]
  assert counts['weights'] == ranks[2] + ranks[4] - 1
  assert counts.total() == ranks.total()

  clip, decay = jax.tree.leaves(clip_mask(shapes)), jax.tree.leaves(decay_mask(shapes))
  assert clip.count(False) == 1
  assert decay.count(True) == ranks[2] + ranks[4]


def test_squeeze_excite_weights_are_clipped_and_decayed():
  shapes = _shapes(TREES['NFNet/F0']['tree'])
  module = next(m for m in shapes if 'squeeze_excite' in m)
  assert assign(shapes)[module] == {'w': 'weights', 'b': 'gains_and_biases'}
  assert clip_mask(shapes)[module] == {'w': True, 'b': True}
  assert decay_mask(shapes)[module] == {'w': True, 'b': False}
  assert clip_mask(shapes)['NFNet/~/linear'] == {'w': False, 'b': True}
  assert decay_mask(shapes)['NFNet/~/linear'] == {'w': True, 'b': False}


def _init(function, *shape):
  return hk.transform(function).init(jax.random.key(0), jnp.ones(shape))


def test_networks_of_haiku_modules():
  def network(x):
    x = hk.Conv2D(4, 3)(x)
    x = hk.GroupNorm(2)(x)
    return hk.Linear(5)(x.mean((1, 2)))

  assert assign(_init(network, 1, 8, 8, 3)) == {
    'conv2_d': {'w': 'weights', 'b': 'gains_and_biases'},
    'group_norm': {'scale': 'gains_and_biases', 'offset': 'gains_and_biases'},
    'linear': {'w': 'classifier', 'b': 'gains_and_biases'},
  }


def test_haiku_resnet_names_its_classifier_logits():
  init = hk.transform_with_state(lambda x: hk.nets.ResNet18(10)(x, True)).init
  params, _ = jax.eval_shape(init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  groups = assign(params)
  assert groups['res_net18/~/logits']['w'] == 'classifier'
  assert Counter(jax.tree.leaves(groups))['classifier'] == 1


def test_a_root_of_another_name():
  shapes = _shapes({
    module.replace('NFNet', 'MyNet'): entries
    for module, entries in TREES['NFNet/F0']['tree'].items()
  })  # fmt: skip
  assert optim.find_classifier(shapes) == 'MyNet/~/linear'


@pytest.mark.parametrize('model', ['BN-ResNet-50', 'EfficientNet-B0', 'eca_nfnet_l0'])
def test_other_families(model):
  shapes = zoo.parameter_shapes(model, num_classes=7)
  (classifier,) = [
    m for m, entries in shapes.items() if m.endswith('/~/linear') and m.count('/') == 2
  ]
  assert optim.find_classifier(shapes) == classifier


@pytest.mark.parametrize(
  'others',
  [
    {'net/~/projection': {'w': (64, 32), 'b': (32,)}},
    {'net/~/patch_embedding': {'w': (48, 32)}},
    {'net/~/lstm': {'w_i': (8, 32), 'w_h': (8, 32)}},
    {'net/~/lstm/linear': {'w': (16, 32), 'b': (32,)}},
    {'net/~/linear': {'w': (16, 32), 'b': (32,)}},
  ],
)
def test_a_matrix_that_need_not_be_the_classifier_is_not_taken_for_it(others):
  conv = {'net/~/conv': {'w': (3, 3, 4, 8), 'gain': (8,), 'bias': (8,)}}
  shapes = _shapes({**conv, **others, 'net/~/head/~/logits': {'w': (32, 10), 'b': (10,)}})
  with pytest.raises(ValueError, match=rf"2 linear layers .*{next(iter(others))}'.*logits'"):
    optim.find_classifier(shapes)
  del shapes['net/~/head/~/logits']
  if others.keys() == {'net/~/lstm'}:
    with pytest.raises(ValueError, match="no linear layer with a 'w'"):
      optim.find_classifier(shapes)
  else:
    assert optim.find_classifier(shapes) == next(iter(others))


def test_what_a_mask_hides_is_not_forgotten():
  params = _init(lambda x: hk.nets.MLP([4, 5, 6])(x), 1, 3)
  hidden = optax.MaskedNode()
  for module in ('mlp/~/linear_1', 'mlp/~/linear_2'):
    params[module] = {'w': hidden, 'b': hidden}
  with pytest.raises(ValueError, match='3 linear layers'):
    optim.find_classifier(params)
  shapes = _shapes(TREES['NFNet/F0']['tree'])
  masked = {
    module: dict.fromkeys(entries, hidden) if module != 'NFNet/~/linear' else entries
    for module, entries in shapes.items()
  }
  assert optim.find_classifier(masked) == 'NFNet/~/linear'
  masked['NFNet/~/linear'] = {'w': hidden, 'b': hidden}
  assert optim.find_classifier(masked) == 'NFNet/~/linear'


def test_ambiguous_classifier_must_be_named():
  params = _init(lambda x: hk.nets.MLP([4, 5, 6])(x), 1, 3)
  with pytest.raises(ValueError, match=r"3 linear layers are .*pass classifier=.*linear_2'"):
    assign(params)
  groups = assign(params, classifier='mlp/~/linear_2')
  assert groups['mlp/~/linear_2']['w'] == 'classifier'
  assert groups['mlp/~/linear_1']['w'] == 'weights'
  with pytest.raises(ValueError, match='mlp/~/logits'):
    assign(params, classifier='mlp/~/logits')


def test_backbone_without_classifier():
  params = _init(lambda x: hk.Conv2D(4, 3)(x), 1, 8, 8, 3)
  with pytest.raises(ValueError, match='no linear layer'):
    assign(params)
  assert all(jax.tree.leaves(clip_mask(params, classifier='')))


def test_unknown_parameter_is_refused_by_name():
  params = _init(lambda x: hk.Linear(5)(hk.Embed(7, 3)(x.astype(int))), 2)
  with pytest.raises(UnknownParameterError, match=r"embed/embeddings;.*names=\{'embeddings'"):
    assign(params)
  with pytest.raises(UnknownParameterError):
    decay_mask(params)
  assert assign(params, names={'embeddings': 'weights'})['embed'] == {'embeddings': 'weights'}
  with pytest.raises(ValueError, match="the group 'heavy'"):
    assign(params, names={'embeddings': 'heavy'})
  assert issubclass(UnknownParameterError, ValueError)


def test_immutable_haiku_trees_keep_their_structure():
  params = hk.data_structures.to_immutable_dict({'net/~/linear': {'w': np.ones((2, 3))}})
  groups = assign(params)
  assert jax.tree.structure(groups) == jax.tree.structure(params)
  assert groups['net/~/linear']['w'] == 'classifier'


@pytest.mark.parametrize('bad', [[np.ones(3)], {'w': np.ones(3)}, {'a': {'b': {'w': np.ones(3)}}}])
def test_other_trees_are_refused(bad):
  with pytest.raises(ValueError, match='expected'):
    assign(bad)
