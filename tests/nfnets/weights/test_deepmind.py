"""DeepMind's files: equal to the golden parameters, and refused by name where they do not fit."""

import json
import logging
import pickle
from pathlib import Path

import jax
import numpy as np
import pytest

import nfnets
from nfnets import zoo
from nfnets.weights import deepmind
from nfnets.weights.deepmind import find_variant, load_deepmind

GOLDEN = Path(__file__).parents[2] / 'golden'
TINY = GOLDEN / 'deepmind_format_tiny_haiku.npz'


@pytest.fixture(scope='module')
def tiny_spec():
  with np.load(GOLDEN / 'train.npz') as golden:
    config = json.loads(str(golden['config']))
  return nfnets.ModelSpec(width=config['width'], depth=config['depth'], group_width=config['gw'])


@pytest.fixture(scope='module')
def tiny_shapes(tiny_spec):
  return zoo.parameter_shapes(tiny_spec, 10)


def _zeros(variant, num_classes=1000):
  """A tree of a variant's shapes that takes no memory."""
  return {
    module: {name: np.broadcast_to(np.float32(0), leaf.shape) for name, leaf in entries.items()}
    for module, entries in zoo.parameter_shapes(variant, num_classes).items()
  }


def test_tiny_release_is_what_the_model_needs(tiny_spec):
  params = load_deepmind(TINY, tiny_spec, num_classes=10)
  with np.load(GOLDEN / 'train.npz') as golden:
    count = sum(key.startswith('params:') for key in golden.files)
    for module, entries in params.items():
      for name, array in entries.items():
        np.testing.assert_array_equal(array, golden[f'params:{module}/{name}'], strict=True)
  assert sum(map(len, params.values())) == count


def test_another_model_is_named_with_both_sides(tiny_spec, tmp_path):
  with pytest.raises(ValueError, match='is not this model with 1000 classes') as caught:
    load_deepmind(TINY, tiny_spec)
  assert 'NFNet/~/linear/b (1000,) in the model, (10,) loaded' in str(caught.value)
  with pytest.raises(ValueError, match='is not F0 with 10 classes') as caught:
    load_deepmind(TINY, 'F0', num_classes=10)
  for side in ('missing from the loaded weights', 'of another shape'):
    assert side in str(caught.value)
  with pytest.raises(ValueError, match=r'5 blocks and 192 final channels.*pass the model'):
    load_deepmind(TINY)
  with pytest.raises(ValueError, match='did you mean'):
    load_deepmind(TINY, 'F99')
  with pytest.raises(FileNotFoundError, match='no weights file'):
    load_deepmind(tmp_path / 'absent', 'F0')


@pytest.mark.parametrize('name', zoo.list_models('F[0-9]*'))
def test_variants_are_told_apart_by_blocks_and_head(name):
  spec = zoo.get_spec(name)
  blocks = {f'NFNet/~/nf_block_{i}': {'skip_gain': np.zeros(())} for i in range(sum(spec.depth))}
  head = {'NFNet/~/final_conv': {'bias': np.zeros(spec.final_channels)}}
  assert find_variant({**blocks, **head}) == name


def test_variant_is_found_and_logged(tmp_path, monkeypatch, caplog):
  tree = _zeros('F1')
  monkeypatch.setattr(deepmind.pickles, 'read_tree', lambda path: tree)
  with caplog.at_level(logging.INFO):
    params = load_deepmind('F1_haiku.npz')
  assert 'F1_haiku.npz holds the weights of F1' in caplog.text
  assert list(params) == list(zoo.parameter_shapes('F1', 1000))
  assert params['NFNet/~/linear']['w'].shape == (3072, 1000)


def test_other_dtypes_are_refused(tmp_path, tiny_spec):
  (tmp_path / 'w').write_bytes(pickle.dumps({'NFNet/~/linear': {'b': np.zeros(10)}}, 3))
  with pytest.raises(ValueError, match='NFNet/~/linear/b as float64'):
    load_deepmind(tmp_path / 'w', tiny_spec, num_classes=10)


def test_files_that_are_none_and_numbers_that_are_none(tmp_path, tiny_spec):
  path = tmp_path / 'F0_haiku.npz'
  path.write_bytes(b'<html>')
  with pytest.raises(ValueError, match='not a weights file but a web page'):
    load_deepmind(path, tiny_spec)
  path.write_bytes(pickle.dumps({'NFNet/~/linear': {'b': np.full(10, np.inf, np.float32)}}, 3))
  with pytest.raises(
    ValueError, match='F0_haiku.npz holds NaN or infinite numbers in NFNet/~/linear/b'
  ):
    load_deepmind(path, tiny_spec, num_classes=10)


def test_mutated_files_load_identically_or_are_refused(
  tmp_path, monkeypatch, tiny_shapes, mutated_copies
):
  monkeypatch.setattr(zoo, 'parameter_shapes', lambda name, num_classes: tiny_shapes)
  whole = load_deepmind(TINY, 'tiny', num_classes=10)
  refused = 0
  for data, only_numbers in mutated_copies:
    (tmp_path / 'w').write_bytes(data)
    try:
      params = load_deepmind(tmp_path / 'w', 'tiny', num_classes=10)
    except ValueError:
      refused += 1
      continue
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, whole)
    same = jax.tree.leaves(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), whole, params))
    # Another number inside an array cannot be seen: that is what the checksum in `fetch` is for.
    assert all(same) or (only_numbers and same.count(False) <= 3)
  assert refused > 50
