"""Poisson sampling: each example by a coin of its own, the same on any number of devices."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from small_batches import assert_same, make_settings, take

from experiments.data import PoissonSampling
from experiments.data.one_example import PADDING

SAMPLING = PoissonSampling(
  key=2**127 + 5, num_examples=20, probability=0.3, limit=16, slots=16, views=2
)


def test_each_example_is_drawn_with_its_probability_independently_of_all_others():
  n, q, steps = 30, 0.25, 4000
  sampling = PoissonSampling(key=1, num_examples=n, probability=q, limit=n, slots=n)
  inside = np.zeros((steps, n))
  for step in range(steps):
    inside[step, sampling.drawn(step)] = 1
  counts = inside.sum(0)
  low, high = stats.binom.interval(1 - 1e-6, steps, q)
  assert low <= counts.min()
  assert counts.max() <= high
  # Sizes have the binomial's variance: batches of one size, or shuffled epochs, have none of it.
  sizes = inside.sum(1)
  np.testing.assert_allclose(sizes.var(), n * q * (1 - q), rtol=0.1)
  examples = np.corrcoef(inside.T) - np.eye(n)
  assert np.abs(examples).max() < 0.1
  following = np.mean((inside[1:] - q) * (inside[:-1] - q)) / (q * (1 - q))
  assert abs(following) < 0.02


def test_draws_follow_from_key_and_step_alone():
  assert np.array_equal(SAMPLING.drawn(3), SAMPLING.drawn(3))
  assert not np.array_equal(SAMPLING.drawn(3), SAMPLING.drawn(4))
  other = dataclasses.replace(SAMPLING, key=SAMPLING.key + 1)
  assert any(not np.array_equal(SAMPLING.drawn(i), other.drawn(i)) for i in range(3))
  seeds = [d.seed for step in range(50) for d in SAMPLING.draws(step, 1) if d.index != PADDING]
  assert len(set(seeds)) == len(seeds) > 100


@pytest.mark.parametrize(('hosts', 'devices'), [(1, 1), (1, 4), (2, 2), (4, 1)])
def test_devices_and_hosts_share_out_the_same_examples_with_the_padding_last(hosts, devices):
  for step in range(5):
    drawn = SAMPLING.drawn(step)
    whole = SAMPLING.draws(step, 1)
    assert [d.index for d in whole[::2]][: len(drawn)] == drawn.tolist()
    assert [d.index for d in whole[::2]] == [d.index for d in whole[1::2]]  # two views
    shares = [SAMPLING.draws(step, devices, host, hosts) for host in range(hosts)]
    places = np.array([d.index for share in shares for d in share])
    of_devices = places.reshape(hosts * devices, -1)[:, ::2]
    for row in of_devices:
      real = row != PADDING
      assert np.all(real[:-1] >= real[1:])
    # Place i of device a has drawn example i * devices + a, which is that of one device.
    assert of_devices.T.ravel().tolist() == [d.index for d in whole[::2]]
    assert {d for share in shares for d in share} == set(whole)


def test_a_draw_beyond_the_limit_is_cut_to_a_random_choice():
  sampling = PoissonSampling(key=3, num_examples=40, probability=0.5, limit=8, slots=8)
  drawn = [sampling.drawn(step) for step in range(200)]
  assert {len(indices) for indices in drawn} == {8}
  counts = np.bincount(np.concatenate(drawn), minlength=40)
  assert counts.min() > 10  # 40 on average: none is always left out


def test_batches_have_the_drawn_examples_and_zeros_in_the_padding():
  settings = make_settings(crop='none', flip=False)
  batches = take(settings, 4, devices=2, sampling=SAMPLING)
  for step, batch in enumerate(batches):
    drawn = SAMPLING.drawn(step)
    assert batch.images.shape == (2, 16, 12, 12, 3)
    real = batch.mask > 0
    assert sorted(batch.labels[real]) == sorted(np.repeat(drawn, 2))  # a label for each picture
    assert not np.any(batch.images[~real])
    assert np.all(batch.mix_ratio == 1)
  assert_same(take(settings, 2, start=2, devices=2, sampling=SAMPLING), batches[2:])


def test_views_of_an_example_are_augmented_differently():
  batch = take(make_settings(crop='random', flip=True), 1, sampling=SAMPLING)[0]
  first, second = batch.images[0][:2]
  assert batch.labels[0][0] == batch.labels[0][1]
  assert not np.array_equal(first, second)


def test_an_unreadable_picture_is_left_out_and_none_takes_its_place(tmp_path):
  for part, count in (('train', 6), ('test', 1)):
    for label in ('a', 'b'):
      folder = tmp_path / part / label
      folder.mkdir(parents=True)
      for i in range(count):
        (folder / f'{i}.png').write_bytes(PNG if (label, i) != ('a', 2) else b'no picture')
  settings = make_settings(source='folder', dir=str(tmp_path), max_corrupt_fraction=0.5)
  sampling = dataclasses.replace(SAMPLING, num_examples=12, probability=1.0, views=1)
  batch = take(settings, 1, sampling=sampling)[0]
  assert batch.mask[0].tolist() == [1, 1, 0, *[1] * 9, *[0] * 4]
  assert not np.any(batch.images[0][2])


PNG = bytes.fromhex(
  '89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8ffff3f'
  '0005fe02fea135b5600000000049454e44ae426082'
)
