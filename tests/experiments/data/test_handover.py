"""Slices of a batch: made apart, they are the batch; and the memory that they need."""

import os
import types

import numpy as np
import pytest
from small_batches import make_settings

from experiments import data
from experiments.data import Batch, collate, handover, one_example, pipeline, sources
from experiments.data.handover import Shares
from experiments.runtime.errors import DataError


class Slices:
  """An iterator that can be closed."""

  def __init__(self, elements):
    self.elements, self.closed = iter(elements), False

  def __next__(self):
    made = next(self.elements)
    if isinstance(made, Exception):
      raise made
    return made

  def close(self):
    self.closed = True


@pytest.mark.parametrize('pairing', ['second_image', 'within_batch'])
def test_slices_make_up_the_batch(pairing):
  settings = make_settings(mixing='mixup_cutmix')
  source, _ = sources.open_sources(settings)
  example = one_example.TrainExample.from_settings(source, settings, 1)
  draws = [one_example.Draw(i, 19 - i, 100 + i) for i in range(16)]

  def make(shares, number):
    options = (example, settings.mixing, pairing, 2)
    return collate.TrainSlice(draws, shares, *options)(number)

  shares = Shares(8, 3)
  assert shares.count == 3
  regrouped = handover.Regrouped(Slices(make(shares, i) for i in range(6)), shares)
  for number in range(2):
    (whole, _), (expected, _) = next(regrouped), make(Shares(8, 8), number)
    for part, other in zip(whole, expected, strict=True):
      np.testing.assert_array_equal(part, other)


def test_batches_ahead_come_in_order_and_end_as_the_iterator_does():
  def element(number):
    row = np.full(4, number)
    return Batch(*[row] * 5), (f'bad {number}',)

  slices = Slices([*(element(i) for i in range(6)), RuntimeError('killed')])
  ahead = handover.Ahead(handover.Regrouped(slices, Shares(8, 4)), 2)
  for number in range(3):
    batch, unreadable = next(ahead)
    np.testing.assert_array_equal(batch.labels, [2 * number] * 4 + [2 * number + 1] * 4)
    assert unreadable == (f'bad {2 * number}', f'bad {2 * number + 1}')
  for _ in range(2):  # and again if asked again
    with pytest.raises(RuntimeError, match='killed'):
      next(ahead)
  ahead.close()
  assert slices.closed


def test_closing_does_not_wait_for_batches_that_nobody_takes():
  def endless():
    while True:
      yield Batch(*[np.zeros(4)] * 5), ()

  slices = Slices(endless())
  ahead = handover.Ahead(handover.Regrouped(slices, Shares(8, 4)), 1)
  next(ahead)
  ahead.close()
  assert slices.closed


def test_too_little_shared_memory_is_a_sentence_before_a_worker_starts(monkeypatch):
  settings = make_settings(
    num_workers=8,
    global_batch_size=1024,
    image_size=192,
    eval_image_size=192,
    num_examples=2000,
    eval_batch_size=64,
  )
  monkeypatch.setattr(
    os, 'statvfs', lambda _: types.SimpleNamespace(f_bavail=2**14, f_frsize=2**12)
  )
  # 37 slices of 64 pictures of 192 x 192 pixels, and as many of 16 to test on, in float32.
  with pytest.raises(
    DataError, match=r'8 worker processes .* up to 1,250 MiB, and it has 64 MiB free: enlarge'
  ):
    data.train_batches(settings, 0, 1)
  with pytest.raises(DataError, match=r'up to 250 MiB'):
    data.test_batches(settings, 4)
  monkeypatch.setattr(pipeline, '_iterate', lambda *_, **__: None)
  enough = types.SimpleNamespace(f_bavail=2**20, f_frsize=2**12)
  monkeypatch.setattr(os, 'statvfs', lambda _: enough)
  data.train_batches(settings, 0, 1)
  monkeypatch.setattr(os, 'statvfs', lambda _: types.SimpleNamespace(f_bavail=0, f_frsize=1))
  data.train_batches(make_settings(), 0, 1)  # threads need none
