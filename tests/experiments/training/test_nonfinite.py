"""Losses and gradients that are not finite."""

import json
import re

import haiku as hk
import jax
import numpy as np
import optax
import pytest

from experiments.data import NATURAL_LAYOUT, Batch
from experiments.runtime.errors import NonFiniteError
from experiments.training import gradients, nonfinite, steps
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


def test_skipping_has_an_end(tmp_path, capsys):
  policy, metrics, batch, state = broken_probe(tmp_path, 'skip')
  fine = {**metrics, 'nonfinite': np.float32(0)}
  for step in range(1, 100):
    policy.check(step, metrics, batch, state)
  policy.check(100, fine, batch, state)  # one that moves starts the count again
  for step in range(101, 200):
    policy.check(step, metrics, batch, state)
  sentence = 'of step 200, as of the 99 steps before it, is not.*ends with 100 of them in a row'
  with pytest.raises(NonFiniteError, match=sentence):
    policy.check(200, metrics, batch, state)
  assert (tmp_path / 'nonfinite_step_200_batch.npz').exists()


def test_what_a_person_needs_is_written_before_the_look(tmp_path, monkeypatch):
  policy, metrics, batch, state = broken_probe(tmp_path, 'stop')

  def fails(*_):
    assert (tmp_path / 'nonfinite_step_7.safetensors').exists()
    raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')

  monkeypatch.setattr(nonfinite, 'first_nonfinite', fails)
  with pytest.raises(NonFiniteError, match=r'unknown, the look at it failed \(RESOURCE_EXHAUSTED'):
    policy.check(7, metrics, batch, state)


def test_the_look_takes_few_examples_at_once():
  sizes = []

  def network(images, is_training):
    sizes.append(len(images))
    return {'logits': hk.Linear(2, name='head')(images)}

  transformed = hk.transform_with_state(network)
  images = np.ones((1, 19, 3), np.float32)
  params, state = transformed.init(jax.random.key(0), images[0], False)
  sizes.clear()
  images[0, 17] = np.nan  # in the last part
  batch = Batch(images, *[np.zeros((1, 19))] * 4)
  found = nonfinite.first_nonfinite(transformed, params, state, batch)
  assert found == ['head: NaN or infinite values']
  assert max(sizes) == 8


def test_the_parameters_of_the_broken_step_are_kept_with_steps_in_flight(tmp_path, monkeypatch):
  """As on an accelerator: the host looks at a step when two later ones are under way."""
  network = hk.transform_with_state(
    lambda images, is_training: {'logits': hk.Linear(2, name='linear')(hk.Flatten()(images))}
  )
  monkeypatch.setattr(steps, '_STEPS_IN_FLIGHT', {'cpu': 2})
  settings = gradients.StepSettings(
    schedule=lambda _: 1.0, label_smoothing=0.0, ema_decay=0.9, compute_dtype='float32', seed=0
  )
  train_step = steps.make_train_step(network, optax.sgd(1.0), settings)
  state = steps.init_state(network, optax.sgd(1.0), 0, 1)
  policy = nonfinite.Policy('stop', tmp_path, network, NATURAL_LAYOUT)
  in_flight = steps.InFlight(lambda *finished: policy.check(*finished, state))
  labels = np.zeros((1, 4), np.int32)
  halted, before = np.float32(0), None

  def go():
    nonlocal state, halted, before
    for step in range(1, 8):
      value = np.nan if step == 3 else float(step)
      images = np.full((1, 4, 1, 1, 3), value, np.float32)
      batch = Batch(images, labels, labels, np.ones((1, 4), np.float32), np.ones((1, 4)))
      if step == 3:
        before = jax.device_get(state.params)
      state, metrics = train_step(state, batch, halted)
      halted = policy.halts(metrics)
      in_flight.add(step, metrics, batch)
    raise AssertionError('it went on')

  with pytest.raises(NonFiniteError, match='of step 3 is not finite'):
    go()
  assert int(state.step) == 5  # two more were made
  written, _ = weights.load(tmp_path / 'nonfinite_step_3.safetensors')
  np.testing.assert_array_equal(written['linear']['w'], before['linear']['w'])


def test_a_skipped_step_leaves_batch_normalisation_alone():
  def network(images, is_training):
    x = hk.BatchNorm(True, True, 0.9)(images, is_training)
    return {'logits': hk.Linear(2)(hk.Flatten()(x))}

  transformed = hk.transform_with_state(network)
  settings = gradients.StepSettings(
    schedule=lambda _: 0.1, label_smoothing=0.0, ema_decay=0.9, compute_dtype='float32', seed=0
  )
  train_step = steps.make_train_step(transformed, optax.sgd(0.1), settings)
  state = steps.init_state(transformed, optax.sgd(0.1), 0, 2)
  labels, ones = np.zeros((1, 4), np.int32), np.ones((1, 4), np.float32)
  good = np.random.default_rng(0).normal(size=(1, 4, 2, 2, 3)).astype(np.float32)
  state, _ = train_step(state, Batch(good, labels, labels, ones, ones))
  before = jax.device_get(state)
  state, metrics = train_step(state, Batch(good * np.nan, labels, labels, ones, ones))
  assert metrics['nonfinite'] == 1
  assert int(state.step) == 2
  for tree in ('params', 'network_state', 'ema_params', 'ema_network_state'):
    jax.tree.map(np.testing.assert_array_equal, getattr(state, tree), getattr(before, tree))


def test_an_update_that_no_later_step_judges_ends_the_run(tmp_path):
  policy, _, _, state = broken_probe(tmp_path, 'skip')
  with pytest.raises(NonFiniteError, match='The last update made head/w NaN or infinite'):
    policy.check_end(state)
  policy.check_end(state._replace(params={'head': {'w': np.ones((3, 2), np.float32)}}))
