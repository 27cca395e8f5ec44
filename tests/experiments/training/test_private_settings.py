"""What makes a run private, what it then may not do, and what it is told."""

import math

import pytest

from configs import private, private_finetune
from experiments.data import DatasetInfo
from experiments.pods import program
from experiments.runtime.errors import ConfigError
from experiments.training import settings
from experiments.training.settings import private as private_settings
from nfnets import ModelSpec, zoo

INFO = DatasetInfo(1437, 360, 10, tuple('0123456789'))


@pytest.fixture
def config():
  config = private.get_config()
  config.num_epochs = 10.0
  config.global_batch_size = 256
  config.optimizer.learning_rate = 2.0
  return config


def test_a_private_run_has_a_budget_and_states_its_noise(config):
  config.private.augmentation_multiplicity = 3
  run = settings.read(config, INFO)
  assert (run.plan.total_steps, run.budget.steps) == (56, 56)
  assert run.config['private']['delta'] == run.budget.delta == 1e-4
  noise = run.config['private']['noise_multiplier']
  assert noise == run.budget.noise_multiplier == run.step.private.noise_multiplier > 0.5
  step = run.step.private
  assert (step.views, step.microbatch, step.batch_size) == (3, 16, 256)
  assert run.step.schedule(0) == run.step.schedule(55) == 2.0  # constant
  config.private.epsilon = None
  ordinary = settings.read(config, INFO)
  assert ordinary.budget is None
  assert ordinary.step.private is None


def test_a_given_noise_ends_the_run_when_epsilon_is_spent(config):
  config.private.update(epsilon=1.0, noise_multiplier=3.0, microbatch=4096)
  run = settings.read(config, INFO)
  assert run.plan.total_steps == run.budget.steps < run.budget.planned_steps == 56
  assert run.step.private.microbatch == run.budget.limit  # no more than a batch has


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    ({'model.variant': 'BN-ResNet-50'}, 'cannot be trained privately: its batch normalisation'),
    ({'model.variant': 'EfficientNet-B0'}, 'mixes the examples of a batch'),
    ({'data.mixing': 'cutmix'}, 'puts two examples into one picture'),
    ({'optimizer.sam_rho': 0.05}, 'SAM climbs along a gradient without noise'),
    ({'accumulation_steps': 2}, 'microbatches in the place of slices'),
    ({'global_batch_size': 1500}, 'draws a batch from the 1437 training pictures'),
    (
      {'private.noise_multiplier': 0.5, 'private.epsilon': 0.1},
      'spends more than --config.private.epsilon=0.1',
    ),
    (
      {'model.variant': 'WRN-16-4', 'model.skip_gain_init': 1.0},
      'skip_gain_init is for normalizer-free networks, and WideResNet has no skip gains',
    ),
  ],
)
def test_what_a_private_run_may_not_do(config, changes, sentence):
  config.model.skip_gain_init = None
  for path, value in changes.items():
    section, _, name = path.rpartition('.')
    if path == 'model.variant':
      config.model.spec = {}
    (config[section] if section else config)[name] = value
  with pytest.raises(ConfigError, match=sentence):
    settings.read(config, INFO)


def test_the_wide_resnets_and_the_same_widths_with_batch_normalisation(config):
  config.model.skip_gain_init = None
  config.model.variant, config.model.spec = 'WRN-16-4', {}
  private_settings.check(config, zoo.get_spec('WRN-16-4'))
  config.model.variant = 'custom'
  small = config.model.spec = {'depth': (1, 1), 'width': (16, 32), 'stride': (1, 2)}
  private_settings.check(config, ModelSpec(**small, group_width=8))
  with pytest.raises(ConfigError, match='custom cannot be trained privately'):
    private_settings.check(config, zoo.spec_from_dict({**small, 'family': 'BN_ResNet'}))


# Epsilon, delta, batch, updates, learning rate, noise, views, EMA, network: arXiv 2204.13650.
PUBLISHED = [
  (private, 'imagenet', 1_281_167, (8, 8e-7, 16_384, 71_589, 4.0, 2.5, 4, 0.99999, 'NF-ResNet-50')),
  (private, 'cifar10', 50_000, (1, 1e-5, 4096, 875, 2.0, 10.0, 16, 0.999, 'WRN-16-4')),
  (private_finetune, 'cifar100', 50_000, (1, 1e-5, 16_384, 250, 1.0, 21.1, 16, 0.9, 'WRN-28-10')),
]


@pytest.mark.parametrize(('recipe', 'name', 'count', 'published'), PUBLISHED)
def test_recipes_are_the_published_settings(recipe, name, count, published):
  config = recipe.get_config(name)
  if recipe is private_finetune:
    assert config.model.variant == ''  # of the weights
    config.model.variant = 'WRN-28-10'
  run = settings.read(config, DatasetInfo(count, 100, 10, tuple('0123456789')))
  budget, step = run.budget, run.step
  assert (budget.epsilon, budget.delta, budget.batch_size, budget.steps) == published[:4]
  assert math.isclose(step.schedule(0), published[4], rel_tol=1e-6)
  assert step.schedule(0) == step.schedule(budget.steps - 1)
  assert (step.private.noise_multiplier, step.private.views) == published[5:7]
  assert (step.ema_decay, run.variant) == published[7:]
  assert (step.private.clipping_norm, step.clipping, step.label_smoothing) == (1.0, None, 0.0)
  assert getattr(run.spec, 'skip_gain_init', 1.0) == 1.0
  assert (run.config['optimizer']['momentum'], run.config['optimizer']['weight_decay']) == (0, 0)


@pytest.mark.parametrize('recipe', [private, private_finetune])
def test_an_argument_that_is_no_recipe_is_named(recipe):
  with pytest.raises(ValueError, match='got :mnist'):
    recipe.get_config('mnist')


def test_a_plan_for_a_pod_is_of_an_ordinary_run(config):
  with pytest.raises(ConfigError, match='plans are of ordinary steps, and this config is private'):
    program.lower(settings.read(config, INFO), [], 8)
