"""Losses and gradients that are not finite."""

import json
import re

import haiku as hk
import jax
import numpy as np
import pytest

from experiments.data import NATURAL_LAYOUT, Batch
from experiments.runtime.errors import NonFiniteError
from experiments.training import nonfinite
from experiments.training.steps import TrainState
from nfnets import weights

DIVERGING = ['--config.optimizer.learning_rate=1e30', '--config.optimizer.clipping=0']


def test_a_diverged_run_stops_with_step_rate_and_layers(train, tmp_path):
  # Packed by the host: a person is to see images.
  output = train(tmp_path, *DIVERGING, '--config.data.space_to_depth=on', code=1)
  match = re.search(r'of step (\d+) is not finite, at learning rate ([\d.]+e\+\d+)', output)
  assert match, output
  assert float(match.group(2)) > 1e20
  assert 'NFNet/~/' in output
  assert 'Traceback' not in output
  step = match.group(1)
  params, _ = weights.load(tmp_path / f'nonfinite_step_{step}.safetensors')
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))  # those before the step
  with np.load(tmp_path / f'nonfinite_step_{step}_batch.npz') as batch:
    assert batch['images'].shape[1:] == (32, 16, 16, 3)


def test_steps_that_are_not_finite_can_be_left_out(train, tmp_path):
  output = train(tmp_path, *DIVERGING, '--config.on_nonfinite=skip')
  assert 'was left out: its loss or gradient is not finite.' in output
  params, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(params))
  assert json.loads((tmp_path / 'report.json').read_text())['steps'] == 64


def test_the_first_module_that_breaks_is_named():
  def network(images, is_training):
    x = hk.Conv2D(4, 3, name='fine')(images)
    x = hk.Conv2D(4, 3, name='breaks', w_init=hk.initializers.Constant(np.inf))(x)
    return {'logits': hk.Conv2D(4, 3, name='after')(x)}

  transformed = hk.transform_with_state(network)
  images = np.ones((1, 2, 8, 8, 3), np.float32)
  params, state = transformed.init(jax.random.key(0), images[0], False)
  batch = Batch(images, *[np.zeros((1, 2))] * 4)
  found = nonfinite.first_nonfinite(transformed, params, state, batch)
  assert found == ['breaks: NaN or infinite values', 'after: NaN or infinite values']


def broken_probe(tmp_path, choice):
  """A classifier without modules and what it made of a batch that breaks it."""
  network = hk.TransformedWithState(
    init=None,
    apply=lambda params, state, key, images, is_training: (
      {'pool': images, 'logits': images @ params['head']['w']},
      state,
    ),
  )
  policy = nonfinite.Policy(choice, tmp_path, network, NATURAL_LAYOUT)
  params = {'head': {'w': np.full((3, 2), np.inf, np.float32)}}
  state = TrainState(np.int32(1), params, {}, (), params, {})
  batch = Batch(np.ones((1, 4, 3), np.float32), *[np.zeros((1, 4))] * 4)
  metrics = {name: np.float32(np.nan) for name in ('loss', 'learning_rate', 'nonfinite')}
  return policy, metrics, batch, state


def test_a_network_without_modules_has_its_outputs_named(tmp_path):
  policy, metrics, batch, state = broken_probe(tmp_path, 'stop')
  sentence = 'of step 7 .* forward pass: logits: NaN or infinite values. .* at the beginning'
  with pytest.raises(NonFiniteError, match=sentence):
    policy.check(7, metrics, batch, state)
  with np.load(tmp_path / 'nonfinite_step_7_batch.npz') as kept:
    np.testing.assert_array_equal(kept['images'], batch.images)
  policy.check(8, {**metrics, 'nonfinite': np.float32(0)}, batch, state)


def test_a_broken_step_may_be_left_out(tmp_path, capsys):
  policy, metrics, batch, state = broken_probe(tmp_path, 'skip')
  policy.check(7, metrics, batch, state)
  assert capsys.readouterr().out.startswith('step 7 was left out')
  assert not list(tmp_path.iterdir())
