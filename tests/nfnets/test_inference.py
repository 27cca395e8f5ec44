import pathlib

import numpy as np
import pytest

from nfnets import images, inference

_GOLDEN = np.load(pathlib.Path(__file__).parents[1] / 'golden' / 'preprocess.npz')
_JPEG = _GOLDEN['jpeg'].tobytes()
_CASES = [(mode, size) for mode in inference.EVALUATION_MODES[:3] for size in (64, 96)]


def _inner(mode, size):
  # TensorFlow decodes 'crop_resize' crops partially: at a right edge in the middle of a chroma
  # pixel, libjpeg then lacks the next one, and the last source column differs by a few levels.
  return np.s_[:, : size - 2] if mode == 'crop_resize' else np.s_[:]


@pytest.mark.parametrize(('mode', 'size'), _CASES)
def test_equals_tensorflow(mode, size):
  resized = inference.resize_for_evaluation(images.decode(_JPEG), size, mode)
  expected = _GOLDEN[f'eval/{mode}/{size}']
  assert resized.shape == (size, size, 3)
  np.testing.assert_allclose(
    resized[_inner(mode, size)], expected[_inner(mode, size)], atol=1e-3, rtol=0
  )
  assert np.abs(resized - expected).mean() < 0.002
  np.testing.assert_allclose(resized, expected, atol=2.5, rtol=0)


@pytest.mark.parametrize(('mode', 'size'), _CASES)
def test_normalized_equals_tensorflow(mode, size):
  network_input = inference.preprocess(_JPEG, size, mode)
  expected = _GOLDEN[f'eval_normalized/{mode}/{size}']
  assert network_input.dtype == np.float32
  np.testing.assert_allclose(
    network_input[_inner(mode, size)], expected[_inner(mode, size)], atol=1e-5, rtol=0
  )


def test_bytes_and_array_agree():
  np.testing.assert_array_equal(
    inference.preprocess(_JPEG, 48), inference.preprocess(images.decode(_JPEG), 48)
  )


def test_resize_takes_the_whole_picture():
  picture = images.decode(_JPEG)
  np.testing.assert_array_equal(
    inference.resize_for_evaluation(picture, 40, 'resize'), images.resize_bicubic(picture, (40, 40))
  )


def test_center_box_is_central_and_never_empty():
  top, left, height, width = inference.padded_center_box((375, 500, 3), 224)
  assert height == width == int(224 / 256 * 375)
  assert abs(2 * top + height - 375) <= 1
  assert abs(2 * left + width - 500) <= 1
  assert inference.padded_center_box((1, 9), 32)[2:] == (1, 1)


def test_unknown_mode_is_refused():
  with pytest.raises(ValueError, match='resize_crop_32'):
    inference.preprocess(np.zeros((8, 8, 3), np.uint8), 8, 'border')
