"""Small networks and pictures for the page to try networks on."""

import io
import json

import numpy as np
import PIL.Image
import pytest

import nfnets
from nfnets import weights, zoo

SPEC = nfnets.ModelSpec(
  width=(16,),
  depth=(1,),
  stride=(1,),
  group_width=8,
  two_convs=False,
  se_ratio=0,
  stem=((3, 2, 8),),
  test_size=24,
)


def _write_weights(path, names, seed):
  rng = np.random.default_rng(seed)
  params = {
    module: {name: rng.normal(size=leaf.shape).astype(np.float32) for name, leaf in leaves.items()}
    for module, leaves in zoo.parameter_shapes(SPEC, len(names)).items()
  }
  path.parent.mkdir()
  weights.save(path, params, spec=SPEC.to_dict(), metadata={'class_names': json.dumps(list(names))})
  return path


@pytest.fixture(scope='session')
def weights_files(tmp_path_factory):
  """Two files of networks for 24 px: of six colours, and of three beasts."""
  folder = tmp_path_factory.mktemp('demo')
  colors = ('red', 'green', 'blue', '<b>pink</b>', 'grey', 'black')
  return (
    _write_weights(folder / 'colors' / 'ema_weights.safetensors', colors, seed=0),
    _write_weights(folder / 'beasts' / 'ema_weights.safetensors', ('ant', 'bee', 'cat'), seed=1),
  )


@pytest.fixture(scope='session')
def classifier(weights_files):
  """What `nfnets.Classifier` makes of the first file."""
  return nfnets.Classifier.from_pretrained(weights_files[0])


@pytest.fixture(scope='session')
def encode():
  """(format, size, mode, **options of Pillow) -> the bytes of a coloured picture."""

  def run(kind, size=(40, 30), mode='RGB', **options):
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8))
    file = io.BytesIO()
    coarse.resize(size).convert(mode).save(file, kind, **options)
    return file.getvalue()

  return run
