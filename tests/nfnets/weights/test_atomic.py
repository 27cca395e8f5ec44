"""Files that appear whole, whoever else writes them."""

import concurrent.futures
import os

import numpy as np
import pytest

from nfnets.weights import load, save
from nfnets.weights.atomic import replacing


def test_threads_save_one_file(tmp_path):
  path = tmp_path / 'w.safetensors'

  def write(number):
    save(path, {'m': {'w': np.full(20_000, number, np.int32)}})

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(write, range(160)))  # raises what a save raised
  assert len(set(load(path)[0]['m']['w'].tolist())) == 1
  assert [file.name for file in tmp_path.iterdir()] == ['w.safetensors']


def test_a_link_is_kept_and_written_through(tmp_path):
  (tmp_path / 'store').mkdir()
  target, link = tmp_path / 'store' / 'run7', tmp_path / 'latest'
  for existing in (False, True):
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, tmp_path))
    save(link, {'m': {'w': np.full(3, existing)}})
    assert link.is_symlink()
    assert load(target)[0]['m']['w'].tolist() == [existing] * 3
  assert [file.name for file in target.parent.iterdir()] == ['run7']


def test_a_longest_name_can_be_written(tmp_path):
  path = tmp_path / ('n' * 255)
  save(path, {'m': {'w': np.ones(2)}})
  assert path.is_file()


@pytest.mark.parametrize('path', ['/dev/null', '/tmp'])
def test_what_is_no_file_is_not_replaced(path):
  with pytest.raises(OSError, match='not a file that can be replaced'), replacing(path):
    raise AssertionError('never entered')
  assert os.path.exists(path)
  assert not os.path.isfile(path)


def test_an_error_leaves_the_old_file_alone(tmp_path):
  (tmp_path / 'w').write_text('old')

  def fail():
    with replacing(tmp_path / 'w') as temporary:
      temporary.write_text('half')
      raise KeyError

  with pytest.raises(KeyError):
    fail()
  assert (tmp_path / 'w').read_text() == 'old'
  assert len(list(tmp_path.iterdir())) == 1
