import jax
import numpy as np
import pytest

from experiments.data import Batch
from experiments.training import evaluation


def batches(*masks):
  for mask in masks:
    mask = np.array([mask], np.float32)
    labels = np.zeros(mask.shape, np.int32)
    yield Batch(np.zeros((*mask.shape, 2, 2, 3)), labels, labels, np.ones_like(mask), mask)


def fake_step(params, network_state, batch):
  """Every real example has loss `params` and is right; those in the top 5 are half as many."""
  count = batch.mask.sum()
  return jax.tree.map(
    jax.numpy.asarray,
    {'count': count, 'loss': params * count, 'top1': count, 'top5': count / 2},
  )


def test_means_are_over_real_examples_of_all_batches_and_parameters_are_kept_apart():
  results = evaluation.evaluate(
    fake_step, {'': (2.0, {}), '_ema': (4.0, {})}, batches([1, 1, 1], [1, 0, 0])
  )
  assert results == {
    'count': 4,
    'loss': 2.0,
    'top1': 1.0,
    'top5': 0.5,
    'loss_ema': 4.0,
    'top1_ema': 1.0,
    'top5_ema': 0.5,
  }


def test_nothing_to_evaluate_is_an_error():
  with pytest.raises(ValueError, match='no readable example'):
    evaluation.evaluate(fake_step, {'': (2.0, {})}, batches([0, 0]))
