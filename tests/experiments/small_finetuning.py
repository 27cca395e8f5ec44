"""What tests of fine-tuning share: weights of one block, a folder of digits, a quick config."""

import haiku as hk
import jax
import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

import nfnets
from configs import finetune
from nfnets import weights

# One block: most of the time is compilation.
SPEC = nfnets.ModelSpec(
  width=(16,),
  depth=(1,),
  stride=(1,),
  group_width=8,
  stem=((3, 4, 8),),
  train_size=16,
  test_size=16,
)
STEM = 'NFNet/~/stem_conv0'
HEAD = 'NFNet/~/linear'


@pytest.fixture(scope='session')
def trunk(tmp_path_factory):
  """A file of weights of random values, -0.0 among them, for five classes."""
  network = hk.transform(lambda x: nfnets.create_model(SPEC, 5)(x, False))
  params = jax.jit(network.init)(jax.random.key(3), np.zeros((1, 16, 16, 3)))
  params = jax.tree.map(lambda x: np.array(x) + np.float32(0.01), params)
  params[STEM]['bias'][0] = -0.0
  path = tmp_path_factory.mktemp('trunk') / 'trunk.safetensors'
  weights.save(path, params, spec=SPEC.to_dict())
  return path


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
  """Scikit-learn's digits 5 to 9 as PNG files: 8 of each to train on, 12 to test."""
  place = tmp_path_factory.mktemp('pictures')
  bunch = load_digits()
  for digit in range(5, 10):
    chosen = np.flatnonzero(bunch.target == digit)
    for split, part in (('train', chosen[:8]), ('test', chosen[8:20])):
      (place / split / str(digit)).mkdir(parents=True)
      for i in part:
        pixels = np.uint8(bunch.images[i] * 15)
        PIL.Image.fromarray(pixels).save(place / split / str(digit) / f'{i}.png')
  return place


def on_folder(config, folder):
  """Makes a config one of seconds."""
  config.num_epochs = 3.0
  config.global_batch_size = 20
  config.log_every_steps = 1
  config.evaluate_every_epochs = 0.0
  config.data.source = 'folder'
  config.data.dir = str(folder)
  config.data.crop = 'shift'
  config.data.flip = False
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 60
  return config


@pytest.fixture(scope='session')
def make_config(trunk, folder):
  def make(**finetune_fields):
    config = on_folder(finetune.get_config(), folder)
    config.model.pretrained = str(trunk)
    for field, value in finetune_fields.items():
      config.finetune[field] = value
    return config

  return make
