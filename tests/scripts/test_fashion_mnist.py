"""A folder of pictures made of Fashion-MNIST's files."""

import gzip

import cv2
import numpy as np
import pytest

from experiments.runtime.errors import DataError
from scripts import fashion_mnist


def idx(array):
  head = np.array([0x800 + array.ndim, *array.shape], '>u4')
  # The time in the file would be in the names of tests, which processes have to agree on.
  return gzip.compress(head.tobytes() + array.astype(np.uint8).tobytes(), mtime=0)


@pytest.fixture
def source(tmp_path):
  """The four files, with three pictures to train on and one to test; picture i is full of i."""
  folder = tmp_path / 'source'
  folder.mkdir()
  for prefix, labels in (('train', [2, 0, 2]), ('t10k', [9])):
    images = np.broadcast_to(np.arange(len(labels))[:, None, None], (len(labels), 28, 28))
    (folder / f'{prefix}-images-idx3-ubyte.gz').write_bytes(idx(images))
    (folder / f'{prefix}-labels-idx1-ubyte.gz').write_bytes(idx(np.array(labels)))
  return folder


def test_every_picture_is_in_the_folder_of_its_class(source, tmp_path, capsys):
  out = tmp_path / 'out'
  assert fashion_mnist.main([str(source), str(out)]) == 0
  assert '4 pictures of 10 classes' in capsys.readouterr().out
  found = {str(path.relative_to(out)): cv2.imread(str(path)) for path in out.rglob('*.png')}
  assert sorted(found) == [
    'test/ankle boot/00000.png',
    'train/pullover/00000.png',
    'train/pullover/00002.png',
    'train/t-shirt/00001.png',
  ]
  assert all(picture.shape == (28, 28, 3) for picture in found.values())
  assert np.all(found['train/pullover/00002.png'] == 2)
  assert len(list((out / 'test').iterdir())) == 10  # a class without pictures is one


@pytest.mark.parametrize(
  ('name', 'content', 'message'),
  [
    ('train-images-idx3-ubyte.gz', None, 'there is no .*train-images'),
    ('train-images-idx3-ubyte.gz', b'text', 'train-images-idx3-ubyte.gz cannot be read'),
    ('train-images-idx3-ubyte.gz', idx(np.zeros(3)), 'no whole IDX file of N x 28 x 28 bytes'),
    ('t10k-images-idx3-ubyte.gz', idx(np.zeros((1, 28, 27))), 'no whole IDX file'),
    ('t10k-labels-idx1-ubyte.gz', idx(np.zeros(1))[:20], 'cannot be read'),
    ('t10k-labels-idx1-ubyte.gz', gzip.compress(b'', mtime=0), 'no whole IDX file of N bytes'),
    ('t10k-labels-idx1-ubyte.gz', idx(np.zeros(2)), 'not those of the pictures'),
    ('t10k-labels-idx1-ubyte.gz', idx(np.array([10])), 'not those of the pictures'),
  ],
)
def test_a_file_that_is_wrong_is_named_and_nothing_is_left(
  source, tmp_path, name, content, message
):
  (source / name).unlink()
  if content is not None:
    (source / name).write_bytes(content)
  with pytest.raises(DataError, match=message):
    fashion_mnist.write(source, tmp_path / 'out')
  assert [path.name for path in tmp_path.iterdir()] == ['source']


def test_a_folder_that_is_there_is_left_alone(source, tmp_path):
  (tmp_path / 'out').mkdir()
  with pytest.raises(SystemExit, match='exists already'):
    fashion_mnist.main([str(source), str(tmp_path / 'out')])
