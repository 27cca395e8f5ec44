import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import nfnets
from nfnets import zoo


def test_list_models_by_pattern():
  assert nfnets.list_models('F?') == [f'F{n}' for n in range(8)]
  assert nfnets.list_models('f?+') == [f'F{n}+' for n in range(8)]


def test_create_model_passes_overrides_on():
  f = hk.transform(lambda x: nfnets.create_model('F0', 7, final_conv_ch=8)(x, is_training=False))
  shapes = jax.eval_shape(f.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  assert shapes['NFNet/~/linear']['w'].shape == (8, 7)


def test_create_model_takes_a_spec():
  spec = nfnets.ModelSpec(width=(32,), depth=(1,), stride=(1,), group_width=8)
  f = hk.transform(lambda x: nfnets.create_model(spec, 7)(x, is_training=False))
  shapes = jax.eval_shape(f.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
  assert shapes['NFNet/~/linear']['w'].shape == (64, 7)


def test_an_unknown_name_suggests_near_ones():
  with pytest.raises(ValueError, match=r"Unknown model 'F9'.*nfnets.list_models\(\)"):
    nfnets.create_model('F9', 10)


def test_what_is_no_name_of_a_model(tmp_path):
  path = tmp_path / 'w.safetensors'
  path.touch()
  for given in (path, str(path)):
    with pytest.raises(ValueError, match=r'is a path and not .*nfnets.load_pretrained\(path\)'):
      nfnets.create_model(given)
  with pytest.raises(ValueError, match='got dict: build one by nfnets.zoo.spec_from_dict'):
    nfnets.create_model({'width': (32,), 'depth': (1,)})
  with pytest.raises(ValueError, match='by its name or a spec, got NoneType'):
    nfnets.zoo.get_spec(None)


def test_names_are_found_in_capitals_or_not():
  for name in nfnets.list_models():
    assert zoo.get_spec(name.lower()) is zoo.get_spec(name.upper()) is zoo.get_spec(name)
