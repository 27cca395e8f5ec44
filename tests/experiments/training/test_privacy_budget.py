"""The accounts of private training against dp_accounting itself, and published settings."""

import math

import dp_accounting
import pytest
from dp_accounting import pld, rdp
from scipy import stats

from experiments.runtime.errors import ConfigError
from experiments.training import privacy_budget

DIGITS = {'clipping_norm': 1.0, 'batch_size': 256, 'num_examples': 1437, 'steps': 60}


def event(noise, steps, probability):
  sampled = dp_accounting.PoissonSampledDpEvent(probability, dp_accounting.GaussianDpEvent(noise))
  return dp_accounting.SelfComposedDpEvent(sampled, steps)


def by_losses(noise, steps, probability, delta):
  accountant = pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
  return accountant.compose(event(noise, steps, probability)).get_epsilon(delta)


def by_moments(noise, steps, probability, delta):
  return rdp.RdpAccountant().compose(event(noise, steps, probability)).get_epsilon(delta)


# Noise multiplier, updates, batch, training pictures, delta, epsilon: arXiv 2204.13650.
PUBLISHED = {
  'ImageNet from scratch': (2.5, 71_589, 16_384, 1_281_167, 8e-7, 8.0),
  'CIFAR-10 from scratch': (10.0, 875, 4096, 50_000, 1e-5, 1.0),
  'CIFAR-100 fine-tuned': (21.1, 250, 16_384, 50_000, 1e-5, 1.0),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_settings_stay_within_their_epsilon(name):
  noise, steps, batch, examples, delta, epsilon = PUBLISHED[name]
  budget = privacy_budget.make_budget(
    epsilon=epsilon, delta=delta, noise_multiplier=noise, clipping_norm=1.0, batch_size=batch,
    num_examples=examples, steps=steps,
  )  # fmt: skip
  assert budget.steps == steps
  # Their accountant, of Rényi divergences, reaches the published number; ours is tighter.
  assert 0.98 * epsilon < by_moments(noise, steps, batch / examples, delta) < epsilon
  assert 0.9 * epsilon < budget.spent(steps) < epsilon
  direct = by_losses(noise, steps, batch / examples, delta)
  assert direct <= budget.spent(steps) <= 1.001 * direct  # a little of delta is set aside


def test_a_calibrated_noise_is_the_least_that_stays_within_epsilon():
  budget = privacy_budget.make_budget(epsilon=2.0, delta=None, noise_multiplier=None, **DIGITS)
  assert (budget.delta, budget.steps) == (1e-4, 60)
  assert 1.99 < budget.spent(60) <= 2.0
  direct = by_losses(budget.noise_multiplier, 60, 256 / 1437, 1e-4)
  assert direct <= budget.spent(60) < 1.001 * direct
  assert by_losses(0.995 * budget.noise_multiplier, 60, 256 / 1437, 1e-4) > 2.0
  assert budget.spent(0) == 0 < budget.spent(30) < budget.spent(60)
  said = budget.to_json(60)
  assert said['neighbouring_relation'] == 'add or remove one example'
  assert (said['sampling'], said['updates']) == ('Poisson', 60)
  assert budget.outcome() == f'Privacy: epsilon {budget.spent(60):.4g} of 2 at delta 0.0001 ' + (
    'after 60 updates.'
  )


def test_the_steps_end_where_one_more_would_exceed_epsilon():
  budget = privacy_budget.make_budget(epsilon=1.0, delta=1e-4, noise_multiplier=4.0, **DIGITS)
  assert 0 < budget.steps < budget.planned_steps == 60
  assert budget.spent(budget.steps) <= 1 < budget.spent(budget.steps + 1)
  assert 'The privacy budget is spent' in budget.outcome()
  with pytest.raises(ConfigError, match='one update with --config.private.noise_multiplier=0.5'):
    privacy_budget.make_budget(epsilon=0.1, delta=1e-4, noise_multiplier=0.5, **DIGITS)


@pytest.mark.parametrize(
  ('count', 'delta'), [(999, 1e-3), (1000, 1e-4), (1437, 1e-4), (50_000, 1e-5), (1_281_167, 1e-7)]
)
def test_delta_is_the_power_of_ten_below_one_over_the_examples(count, delta):
  assert math.isclose(privacy_budget.default_delta(count), delta)
  assert privacy_budget.default_delta(count) < 1 / count


@pytest.mark.parametrize('epsilon', [0.1, 8.0, 100.0])
@pytest.mark.parametrize(('batch', 'count'), [(16, 300), (4096, 50_000), (300, 300)])
def test_what_the_limit_of_a_batch_costs_is_a_small_part_of_delta(epsilon, batch, count):
  delta, steps = 1e-5, 1000
  limit = privacy_budget.largest_batch(epsilon, delta, steps, count, batch / count)
  cost = privacy_budget.set_aside(epsilon, steps, count, batch / count, limit)
  # Either of two neighbouring runs is cut with this chance at most; (1 + e^epsilon) times it.
  chance = steps * stats.binom.sf(limit, count, batch / count)
  assert cost == pytest.approx(chance * (1 + math.exp(epsilon)))
  assert 0 <= cost <= 1e-3 * delta
  assert batch <= limit <= count
  if batch < count and epsilon < 100:
    assert privacy_budget.set_aside(epsilon, steps, count, batch / count, limit - 1) > 1e-3 * delta


def test_what_is_not_installed_is_named(monkeypatch):
  monkeypatch.setitem(__import__('sys').modules, 'jax_privacy', None)
  with pytest.raises(ConfigError, match=r'private training needs more packages: .*\[private\]'):
    privacy_budget.make_budget(epsilon=1.0, delta=None, noise_multiplier=None, **DIGITS)
