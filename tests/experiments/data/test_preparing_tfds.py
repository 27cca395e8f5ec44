"""What is checked before TFDS is asked to build; the build itself needs TensorFlow."""

import importlib.util
import io
import tarfile

import pytest

from experiments.data import prepare_tfds
from experiments.runtime.errors import DataError


@pytest.fixture
def tars(tmp_path):
  """Miniatures of ImageNet's two tar files."""
  for name in prepare_tfds.IMAGENET_TARS:
    with tarfile.open(tmp_path / name, 'w') as tar:
      for i in range(5):
        info = tarfile.TarInfo(f'n0000000{i}.tar')
        info.size = 10_000 + i
        tar.addfile(info, io.BytesIO(bytes([65 + i]) * info.size))
  return tmp_path


def test_whole_tars_pass(tars):
  prepare_tfds.check_tars(tars)


@pytest.mark.parametrize('name', prepare_tfds.IMAGENET_TARS)
@pytest.mark.parametrize('kept', [0, 100, 512, 5_000, 40_000, 5 * (512 + 10_240)])
def test_a_cut_tar_is_named(tars, name, kept):
  path = tars / name
  path.write_bytes(path.read_bytes()[:kept])
  with pytest.raises(DataError, match=rf'{name} is .*download it again') as caught:
    prepare_tfds.check_tars(tars)
  assert '\n' not in str(caught.value)


def test_a_missing_tar_or_another_file_is_named(tars):
  path = tars / prepare_tfds.IMAGENET_TARS[1]
  path.write_bytes(b'<html>Not Found</html>' * 1000)
  with pytest.raises(DataError, match='img_val.tar is no readable tar file'):
    prepare_tfds.check_tars(tars)
  path.unlink()
  with pytest.raises(DataError, match=r'img_val.tar does not exist; download it.*--tars'):
    prepare_tfds.check_tars(tars)


@pytest.mark.skipif(importlib.util.find_spec('tensorflow') is not None, reason='has TensorFlow')
def test_without_tensorflow_the_extra_is_named(tars, tmp_path):
  with pytest.raises(DataError, match=r"needs the package tensorflow: .*'\.\[tfds\]'"):
    prepare_tfds.prepare('imagenet2012', tmp_path / 'out', tars)
  assert not (tmp_path / 'out').exists()
