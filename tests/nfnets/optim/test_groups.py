"""Parameter groups over every published tree and over users' own networks."""

import gzip
import json
from collections import Counter
from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
