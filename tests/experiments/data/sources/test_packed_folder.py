"""A folder packed in one file: the same run, and nothing half made."""

import itertools
import pathlib
import pickle
import resource

import cv2
import numpy as np
import pytest

from configs import base
from experiments import data
from experiments.data import sources
from experiments.data.sources import packed_folder
from experiments.runtime.errors import DataError


def _make_folder(root, parts, count=4):
  rng = np.random.default_rng(0)
  for part, kind in itertools.product(parts, ('a cat', 'dög', 'owl')):
    for i in range(count):
      path = root / part / kind / 'deep' / f'{i}.jpg'
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
      path.write_bytes(cv2.imencode('.jpg', pixels)[1].tobytes())
  (root / 'notes.txt').write_text('no picture')
  return root


@pytest.fixture
def folder(tmp_path):
  return _make_folder(tmp_path / 'pictures', ['train', 'test'])


def _settings(place, **fields):
  config = base.get_config()
  config.global_batch_size = 4
  config.data.update({
    'source': 'folder', 'dir': str(place), 'image_size': 16, 'eval_image_size': 16,
    'eval_batch_size': 4, 'mixing': 'mixup_cutmix', 'num_threads': 2, **fields,
  })  # fmt: skip
  return data.DataSettings.from_config(config)


def _everything(settings):
  with data.train_batches(settings, 0, 1) as batches:
    train = list(itertools.islice(batches, 6))
  return train + list(data.test_batches(settings, 1))


@pytest.mark.parametrize('parts', [['train', 'test'], ['train'], ['']])
def test_a_packed_folder_gives_the_same_batches(tmp_path, parts):
  folder = _make_folder(tmp_path / 'pictures', parts)
  count = packed_folder.pack(str(folder), str(tmp_path / 'packed'))
  assert count == 12 * len(parts)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['packed', 'pictures']
  assert data.describe(_settings(folder)) == data.describe(_settings(tmp_path / 'packed'))
  first, second = _everything(_settings(folder)), _everything(_settings(tmp_path / 'packed'))
  assert len(first) == len(second) > 6
  for batch, other in zip(first, second, strict=True):
    for part, other_part in zip(batch, other, strict=True):
      np.testing.assert_array_equal(part, other_part)


def test_pictures_and_names_are_kept_and_reach_workers(folder, tmp_path):
  packed_folder.pack(str(folder), str(tmp_path / 'packed'))
  settings = _settings(tmp_path / 'packed')
  for source, original in zip(
    sources.open_sources(settings), sources.open_sources(_settings(folder)), strict=True
  ):
    source = pickle.loads(pickle.dumps(source))
    assert [source[i] for i in range(len(source))] == [original[i] for i in range(len(original))]


def test_a_damaged_record_is_skipped_and_named(folder, tmp_path):
  packed_folder.pack(str(folder), str(tmp_path / 'packed'))
  victim = folder / 'train/owl/deep/2.jpg'
  path = tmp_path / 'packed' / packed_folder.RECORDS_NAME
  content = bytearray(path.read_bytes())
  place = content.find(victim.read_bytes()[-150:-50])
  content[place : place + 50] = bytes(50)
  path.write_bytes(content)
  settings = _settings(tmp_path / 'packed', max_corrupt_fraction=0.1)
  with data.train_batches(settings, 0, 1) as batches:
    assert all((batch.mask == 1).all() for batch in itertools.islice(batches, 6))
  assert list(batches.corrupt) == ['train/owl/deep/2.jpg']
  assert 'its record is damaged' in batches.corrupt['train/owl/deep/2.jpg']
  with pytest.raises(DataError, match=r'1 of 12 pictures.*train/owl/deep/2\.jpg'):
    list(itertools.islice(data.train_batches(_settings(tmp_path / 'packed'), 0, 1), 6))


@pytest.mark.parametrize('harm', ['cut', 'empty', 'gone', 'index', 'other'])
def test_a_damaged_packed_folder_is_refused(folder, tmp_path, harm):
  place = tmp_path / 'packed'
  packed_folder.pack(str(folder), str(place))
  records, index = place / packed_folder.RECORDS_NAME, place / packed_folder.INDEX_NAME
  if harm == 'cut':
    records.write_bytes(records.read_bytes()[:-70_000])
  elif harm == 'empty':
    records.write_bytes(b'')
  elif harm == 'gone':
    records.unlink()
  elif harm == 'index':
    index.write_text(index.read_text()[:50])
  else:
    index.write_text(index.read_text().replace('"train/owl/deep/2.jpg",', ''))
  with pytest.raises(DataError, match='pack') as caught:
    data.describe(_settings(place))
  assert '\n' not in str(caught.value)


def test_a_full_disk_leaves_nothing(folder, tmp_path):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))  # a write beyond fails, as if full
  try:
    with pytest.raises(DataError, match=r'failed: .*nothing is left'):
      packed_folder.pack(str(folder), str(tmp_path / 'packed'))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert [p.name for p in tmp_path.iterdir()] == ['pictures']


def test_an_interruption_leaves_nothing_that_looks_whole(folder, tmp_path):
  def interrupted(names):
    yield from names[:3]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    packed_folder.pack(str(folder), str(tmp_path / 'packed'), interrupted)
  assert [p.name for p in tmp_path.iterdir()] == ['pictures']
  # What a kill leaves has another name, is no packed folder, and goes with the next call.
  left = tmp_path / '.packed.unfinished'
  left.mkdir()
  (left / packed_folder.RECORDS_NAME).write_bytes(b'half')
  assert not packed_folder.is_packed(str(left))
  assert packed_folder.pack(str(folder), str(tmp_path / 'packed')) == 24
  assert not left.exists()


def test_bad_input_is_refused(folder, tmp_path):
  (tmp_path / 'empty').mkdir()
  for source, out, words in (
    (tmp_path / 'missing', tmp_path / 'packed', 'does not exist'),
    (tmp_path / 'empty', tmp_path / 'packed', 'holds no pictures'),
    (folder, tmp_path / 'empty', 'exists already'),
    (folder, pathlib.Path('/dev/null/packed'), r'failed: .*Not a directory'),
  ):
    with pytest.raises(DataError, match=words) as caught:
      packed_folder.pack(str(source), str(out))
    assert '\n' not in str(caught.value)
