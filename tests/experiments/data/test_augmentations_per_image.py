"""Several draws of each picture in a batch: which, in what order, and that it is read once."""

import collections
import hashlib

import numpy as np
import pytest
import simplejpeg
from small_batches import assert_same, labels_of, make_settings, take

from experiments.data import collate, one_example, pipeline, sources
from experiments.data.handover import Regrouped, Shares
from experiments.runtime.errors import ConfigError, DataError
from nfnets import images

_RECIPE = {'mixing': 'mixup_cutmix', 'augment': 'randaugment', 'randaugment_magnitude': 0.6}


def repeated(count=4, **fields):
  return make_settings(augmentations_per_image=count, **fields)


def test_one_draw_of_each_is_the_stream_that_it_was():
  """The digest is of the revision before this field: order, partners, boxes, flips."""
  settings = make_settings(crop='none', mixing='cutmix', seed=7)
  digest = hashlib.sha256()
  for batch in take(settings, 6, start=2, layout=settings.train_layout()):
    for part in batch:
      digest.update(np.ascontiguousarray(part).tobytes())
  assert digest.hexdigest() == DIGEST


DIGEST = '3c3e53e4a8d7545c6ef85e88b6653a9cd028ad70b5769f823846d3fba929591c'


def test_a_batch_has_each_picture_four_times_and_an_epoch_every_picture_once():
  batches = take(repeated(), 20)  # two epochs of 20 pictures, two a batch
  for batch in batches:
    assert set(collections.Counter(batch.labels.ravel().tolist()).values()) == {4}
  # Of 160 draws hardly two crops of these few pixels are the same.
  assert len({image.tobytes() for batch in batches for image in batch.images[0]}) > 145
  labels = labels_of(batches)
  np.testing.assert_array_equal(labels, np.repeat(labels[::4], 4))
  for epoch in labels[::4].reshape(2, 20):
    assert sorted(epoch) == list(range(20))


def test_the_first_draws_are_those_of_one_draw_each():
  fields = {'mixing': 'mixup', 'mixup_alpha': 1.0}
  several = take(repeated(**fields), 3)
  single = take(make_settings(global_batch_size=2, **fields), 3)
  for batch, expected in zip(several, single, strict=True):
    for part, other in zip(batch, expected, strict=True):
      np.testing.assert_array_equal(part[:, ::4], other)
  # A picture's draws have its partner in common, and a ratio each.
  for batch in several:
    np.testing.assert_array_equal(batch.mix_labels[0], np.repeat(batch.mix_labels[0, ::4], 4))
    assert len(set(batch.mix_ratio.ravel())) == 8


def test_within_a_batch_the_partner_is_another_picture():
  for batch in take(repeated(mixing='mixup_cutmix', mix_pairing='within_batch'), 10):
    np.testing.assert_array_equal(batch.mix_labels[0], np.roll(batch.labels[0], 4))
    assert (batch.mix_labels != batch.labels).all()


@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_it_goes_on_in_the_middle_of_an_epoch_whatever_the_threads(pairing):
  fields = {**_RECIPE, 'mix_pairing': pairing}
  whole = take(repeated(num_threads=1, **fields), 7, devices=2)
  assert_same(whole[4:], take(repeated(num_threads=5, **fields), 3, start=4, devices=2))


def test_worker_processes_do_not_matter():
  fields = {'global_batch_size': 128, 'augmentations_per_image': 32, **_RECIPE}  # two slices
  assert_same(
    take(make_settings(num_workers=2, **fields), 2, start=1),
    take(make_settings(**fields), 2, start=1),
  )


def test_hosts_only_divide_the_pictures_of_a_batch():
  whole = take(repeated(2), 5)
  hosts = [take(repeated(2), 5, process_index=host, process_count=2) for host in range(2)]
  for batch, *shares in zip(whole, *hosts, strict=True):
    for host, share in enumerate(shares):  # of pictures 0 1 2 3: 0 2 and 1 3
      places = [i for picture in (host, host + 2) for i in (2 * picture, 2 * picture + 1)]
      for part, other in zip(share, batch, strict=True):
        np.testing.assert_array_equal(part[0], other[0, places])


@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_slices_divide_no_picture(pairing):
  source, _ = sources.open_sources(make_settings())
  example = one_example.TrainExample.from_settings(source, make_settings(), 1)
  draws = [one_example.Draw(i // 3, 19 - i // 3, 100 + i) for i in range(24)]

  def make(shares, number):
    options = (example, 'mixup_cutmix', pairing, 2)
    return collate.TrainSlice(draws, shares, *options, repeats=3)(number)

  class Slices(collections.UserList):
    def __next__(self):
      return self.pop(0)

  shares = Shares(12, 9)
  regrouped = Regrouped(Slices(make(shares, i) for i in range(4)), shares)
  for number in range(2):
    assert_same([next(regrouped)[0]], [make(Shares(12, 12), number)[0]])
  of_a_worker = pipeline._shares(192, make_settings(num_workers=1), 63)
  assert (of_a_worker.slice, of_a_worker.count) == (63, 4)


class CountingSource:
  """Pictures as files, and how often each of them is read."""

  labels, origin = None, 'counting'
  class_names = tuple('abcdef')

  def __init__(self):
    picture = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    self.reads = collections.Counter()
    self.data = [encoded(np.roll(picture, 9 * i)) for i in range(6)]

  def __len__(self):
    return len(self.data)

  def __getitem__(self, index):
    self.reads[index] += 1
    return {'image': self.data[index], 'label': index, 'name': str(index)}


def encoded(picture):
  return simplejpeg.encode_jpeg(picture, 95)


@pytest.mark.parametrize(
  ('mixing', 'decode', 'read'), [('none', 'full', 3), ('mixup', 'full', 6), ('none', 'scaled', 3)]
)
def test_a_picture_is_read_and_decoded_once(monkeypatch, mixing, decode, read):
  source, decoded, real = CountingSource(), [], images.decode

  def counted(data, **options):
    decoded.append((data, *options.items()))
    return real(data, **options)

  settings = make_settings(decode=decode, mixing=mixing)
  draws = [one_example.Draw(i // 4, 5 - i // 4, i) for i in range(12)]
  example = one_example.TrainExample.from_settings(source, settings, 1)
  alone = collate.TrainSlice(draws, Shares(12, 12), example, mixing, 'second_image', 2)(0)
  assert source.reads.total() == (12 if mixing == 'none' else 24)
  source.reads.clear()
  monkeypatch.setattr(images, 'decode', counted)
  shares = Shares(12, 12)
  made = collate.TrainSlice(draws, shares, example, mixing, 'second_image', 2, repeats=4)(0)
  assert_same([made[0]], [alone[0]])
  assert set(source.reads.values()) == {1}
  assert len(source.reads) == read
  assert len(decoded) == len(set(decoded))  # 'scaled': once at each size
  assert len(decoded) == read or decode == 'scaled'


def test_what_does_not_divide_is_refused():
  sentence = (
    '--config.global_batch_size is 8, but a batch holds each picture 3 times '
    '(--config.data.augmentations_per_image): use a multiple of 3, such as 9.'
  )
  with pytest.raises(ConfigError) as error:
    take(repeated(3), 1)
  assert str(error.value) == sentence
  with pytest.raises(ConfigError, match='multiple of 8 for each of 2 processes, such as 16'):
    take(repeated(8), 1, process_count=2)
  with pytest.raises(DataError, match='a batch of 1 picture cannot be mixed within itself'):
    take(repeated(8, mixing='mixup', mix_pairing='within_batch'), 1)


def test_an_unreadable_picture_gives_way_to_one_other(tmp_path):
  for part, count in (('train', 4), ('test', 1)):
    for label in ('a', 'b'):
      folder = tmp_path / part / label
      folder.mkdir(parents=True)
      for i in range(count):
        picture = encoded(np.full((16, 16, 3), 10 * i, np.uint8))
        (folder / f'{i}.jpg').write_bytes(picture if (label, i) != ('a', 2) else b'no picture')
  settings = repeated(
    source='folder', dir=str(tmp_path), max_corrupt_fraction=0.5, crop='none', flip=False
  )
  with pipeline.train_batches(settings, 0, 1) as batches:
    epoch = [next(batches) for _ in range(4)]  # 8 pictures, two a batch
    assert list(batches.corrupt) == ['train/a/2.jpg']
  tones = collections.Counter(
    (int(label), image.tobytes())
    for batch in epoch
    for label, image in zip(batch.labels[0], batch.images[0], strict=True)
  )
  assert sorted(tones.values()) == [4] * 6 + [8]  # a/3 in the place of a/2
