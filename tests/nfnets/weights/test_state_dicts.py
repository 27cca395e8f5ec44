"""State dicts as wrappers and training scripts leave them."""

import pathlib

import numpy as np
import pytest
import safetensors.numpy

from nfnets import zoo
from nfnets.weights import from_timm, load_pretrained, save, to_timm

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden'


@pytest.fixture(scope='module')
def state():
  return safetensors.numpy.load_file(GOLDEN / 'timm_test_nfnet.safetensors')


@pytest.fixture(scope='module')
def params(state):
  return from_timm(state, 'test_nfnet')


def assert_same(got, want):
  assert set(got) == set(want)
  for module, entries in want.items():
    for name, array in entries.items():
      np.testing.assert_array_equal(got[module][name], array, strict=True)


@pytest.mark.parametrize(
  'prefix', ['module.', '_orig_mod.', 'model.', 'backbone.', 'state.module._orig_mod.']
)
def test_a_prefix_of_all_names_is_left_out_and_named(prefix, state, params, caplog):
  assert_same(from_timm({prefix + key: a for key, a in state.items()}, 'test_nfnet'), params)
  assert f"the prefix '{prefix}' of all names is left out" in caplog.text


def test_prefixes_of_some_names_are_refused(state):
  some = {f'module.{key}': array for key, array in state.items()} | {'n_averaged': np.ones(())}
  with pytest.raises(ValueError, match=r"93 of 94 names begin with 'module.'.*\(n_averaged\)"):
    from_timm(some, 'test_nfnet')
  two = {f'{p}.{key}': array for p in ('student', 'teacher') for key, array in state.items()}
  with pytest.raises(ValueError, match=r"begin with 'student.'.*second network \(teacher\."):
    from_timm(two, 'test_nfnet')


def test_checkpoints_and_tensors_that_are_no_arrays(state):
  with pytest.raises(ValueError, match=r"weights\['state_dict'\] is a mapping itself.*pass the"):
    from_timm({'state_dict': state, 'epoch': 3}, 'test_nfnet')
  with pytest.raises(ValueError, match='epoch is a str, not an array'):
    from_timm({**state, 'epoch': 'last'}, 'test_nfnet')

  class OnDevice:
    def __array__(self, *args, **kwargs):
      raise TypeError("can't convert cuda:0 device type tensor to numpy")

  with pytest.raises(ValueError, match=r'stem.*pass tensor.detach\(\).float\(\).cpu\(\)'):
    from_timm({**state, 'stem.conv1.weight': OnDevice()}, 'test_nfnet')


def test_a_number_that_is_not_finite_is_named_as_timm_does(state):
  broken = {**state, 'stem.conv1.gain': np.full_like(state['stem.conv1.gain'], np.nan)}
  with pytest.raises(ValueError, match='in stem.conv1.gain'):
    from_timm(broken, 'test_nfnet')


def test_weights_without_a_classifier(state, params, tmp_path, caplog):
  headless = {key: array for key, array in state.items() if not key.startswith('head.fc')}
  trunk = from_timm(headless, 'test_nfnet')
  assert 'no classifier (head.fc)' in caplog.text
  expected = {m: e for m, e in params.items() if m != 'NFNetLight/~/linear'}
  assert_same(trunk, expected)
  assert sorted(to_timm(trunk, 'test_nfnet')) == sorted(headless)
  path = tmp_path / 'trunk.safetensors'
  save(path, trunk, spec=zoo.get_spec('test_nfnet').to_dict())
  assert_same(load_pretrained(path).params, expected)
  assert 'trunk: the weights have no classifier' in caplog.text
  whole = load_pretrained(path, num_classes=4).params
  assert 'NFNetLight/~/linear is new, 4 classes instead of none' in caplog.text
  channels = params['NFNetLight/~/linear']['w'].shape[0]
  assert whole['NFNetLight/~/linear']['w'].shape == (channels, 4)
  assert_same({m: e for m, e in whole.items() if m != 'NFNetLight/~/linear'}, expected)
  with pytest.raises(ValueError, match=r'missing.*NFNetLight/~/linear/b'):
    from_timm(headless, 'test_nfnet', num_classes=10)


def test_images_of_other_channels(state):
  for channels, sentence in (
    (1, r'1 channel \(timm: in_chans=1\).*divide stem.conv1.gain by sqrt\(3\)'),
    (4, 'only networks for RGB'),
  ):
    weight = np.zeros((state['stem.conv1.weight'].shape[0], channels, 3, 3), np.float32)
    with pytest.raises(ValueError, match=sentence):
      from_timm({**state, 'stem.conv1.weight': weight}, 'test_nfnet')
