"""How pictures are brought to networks, by the weights that say so.

tests/golden/timm_preprocessing.npz: four JPEG files of generated pictures, the test configuration
of each published set of weights, and every 11th pixel of what timm 1.0.31's own transform, with
torchvision 0.29.1 and Pillow 13.0.0, makes of each file before it is normalised.
"""

import json
import pathlib

import numpy as np
import pytest

from nfnets import images, inference
from nfnets.preprocessing import Preprocessing
from nfnets.weights.published import DEEPMIND, TIMM, preprocessing_of

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'timm_preprocessing.npz')
CONFIGS = json.loads(str(GOLDEN['configs']))


def test_the_table_is_timms():
  assert set(CONFIGS) == set(TIMM)
  for name, (_, preprocessing) in TIMM.items():
    want = {k: tuple(v) if isinstance(v, list) else v for k, v in CONFIGS[name].items()}
    assert preprocessing == Preprocessing(**want), name


@pytest.mark.parametrize('picture', ['landscape', 'portrait', 'small', 'large'])
@pytest.mark.parametrize('name', sorted(TIMM))
def test_equals_timms_transform(name, picture):
  preprocessing = TIMM[name].preprocessing
  pixels = inference.read_picture(GOLDEN[f'jpeg/{picture}'].tobytes(), exact=True)
  got = preprocessing.resize(pixels)
  assert got.shape == (preprocessing.size, preprocessing.size, 3)
  assert got.dtype == np.float32
  difference = np.abs(got[::11, ::11] - GOLDEN[f'{name}/{picture}'])
  assert difference.mean() <= 0.1  # 0 with the Pillow and libjpeg-turbo of the golden files
  assert difference.max() <= 3


def test_it_is_exact_and_normalised_with_its_own_numbers():
  jpeg = GOLDEN['jpeg/small'].tobytes()
  preprocessing = preprocessing_of('test_nfnet')
  pixels = preprocessing.resize(images.decode(jpeg, exact=True))
  got = preprocessing(jpeg)
  np.testing.assert_allclose(got, pixels / 127.5 - 1, atol=1e-6)
  np.testing.assert_array_equal(preprocessing.restore(got), pixels)
  assert np.abs(preprocessing.resize(images.decode(jpeg)) - pixels).mean() > 0.3


def test_deepminds_weights_keep_deepminds_way():
  for name in DEEPMIND:
    assert preprocessing_of(name).mode == 'resize_crop_32'
  jpeg = GOLDEN['jpeg/portrait'].tobytes()
  np.testing.assert_array_equal(preprocessing_of('F0')(jpeg), inference.preprocess(jpeg, 256))
  assert preprocessing_of('F6') == Preprocessing(576)


def test_floats_are_rounded_to_bytes_where_the_weights_saw_bytes():
  picture = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
  preprocessing = Preprocessing(16, 'squash', 0.9)
  np.testing.assert_array_equal(preprocessing(picture + np.float32(0.4)), preprocessing(picture))


@pytest.mark.parametrize('shape', [(1, 900), (900, 1), (7, 7), (300, 299)])
@pytest.mark.parametrize('mode', inference.EVALUATION_MODES)
def test_any_shape_becomes_the_size(shape, mode):
  out = Preprocessing(31, mode, 0.9)(np.zeros((*shape, 3), np.uint8))
  assert out.shape == (31, 31, 3)


def test_it_is_written_and_read():
  preprocessing = Preprocessing(40, 'center', 0.875, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
  metadata = {'preprocessing': preprocessing.to_json()}
  assert Preprocessing.from_metadata(metadata) == preprocessing
  assert Preprocessing.from_metadata({'other': 'x'}) is None
  older = {'eval_size': '40', 'eval_mode': 'crop_resize'}
  assert Preprocessing.from_metadata(older) == Preprocessing(40, 'crop_resize')
  with pytest.raises(ValueError, match="'large' cannot be used"):
    Preprocessing.from_metadata({'eval_size': 'large'})
  assert '40 px, center, 87.5% of the side, mean (0.1' in str(preprocessing)
  assert str(Preprocessing(256)) == '256 px, resize_crop_32'
