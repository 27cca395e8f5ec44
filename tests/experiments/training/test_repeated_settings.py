"""Several draws of each picture: the length of a run, its batch, what is refused, the recipes."""

import pytest

from configs import digits, finetune, image_folder, nfnet_imagenet, pretrain
from experiments.data import DatasetInfo
from experiments.runtime.errors import ConfigError
from experiments.training import settings

IMAGENET = DatasetInfo(1_281_167, 50_000, 1000, tuple(map(str, range(1000))))
FEW = DatasetInfo(48, 12, 3, ('a', 'b', 'c'))


def repeated(config, count, **changes):
  config.data.augmentations_per_image = count
  for path, value in changes.items():
    section, _, name = path.rpartition('.')
    (config[section] if section else config)[name] = value
  return config


def test_an_epoch_has_as_many_times_more_updates():
  config = digits.get_config()
  config.num_epochs, config.global_batch_size = 10.0, 64
  once = settings.read(config, FEW).plan
  run = settings.read(repeated(config, 4), FEW)
  assert (once.steps_per_epoch, once.total_steps) == (0.75, 8)  # 7.5, rounded to even
  assert (run.plan.steps_per_epoch, run.plan.total_steps) == (3.0, 30)
  assert run.data.augmentations_per_image == 4


@pytest.mark.parametrize(
  ('count', 'slices', 'batch'), [(1, 1, 16), (4, 1, 16), (3, 1, 18), (3, 2, 18)]
)
def test_a_batch_that_is_left_open_divides(count, slices, batch):
  run = settings.read(repeated(image_folder.get_config(), count, accumulation_steps=slices), FEW)
  assert run.data.global_batch_size == batch
  # 60 epochs, or as many as make 400 updates of 48 * count examples an epoch.
  epochs = max(60.0, 400 * batch / (48 * count))
  assert run.config['num_epochs'] == pytest.approx(epochs)
  assert run.plan.total_steps == round(epochs * 48 * count / batch)


@pytest.mark.parametrize(
  ('changes', 'sentence'),
  [
    (
      {},
      '--config.global_batch_size is 64, but a batch holds each picture 5 times '
      '(--config.data.augmentations_per_image): use a multiple of 5, such as 65.',
    ),
    (
      {'global_batch_size': 65, 'finetune.linear_probe': True},
      'the features of a linear probe are computed once, without augmentation: set '
      '--config.data.augmentations_per_image=1.',
    ),
    (
      {'num_epochs': 0.01, 'global_batch_size': 65},
      '--config.num_epochs=0.01 of 48 images, each 5 times, are less than one batch of 65: train '
      'longer or use a smaller --config.global_batch_size.',
    ),
    (
      {
        'global_batch_size': 65,
        'private.epsilon': 4.0,
        'data.mixing': 'none',
        'optimizer.sam_rho': 0.0,
      },
      'a private run draws each picture by itself, and averages the gradients of its augmented '
      'views before it clips them: set --config.data.augmentations_per_image=1, and '
      '--config.private.augmentation_multiplicity for the views.',
    ),
  ],
)
def test_what_is_refused(changes, sentence):
  config = digits.get_config()
  config.global_batch_size = 64
  with pytest.raises(ConfigError) as error:
    settings.read(repeated(config, 5, **changes), FEW)
  assert str(error.value) == sentence


def test_processes_have_pictures_of_their_own(monkeypatch):
  config = repeated(digits.get_config(), 4, global_batch_size=12)
  settings.resolve(config)
  monkeypatch.setattr('jax.process_count', lambda: 2)
  with pytest.raises(ConfigError, match='a multiple of 4 for each of 2 processes, such as 16'):
    settings.resolve(config)


def test_few_updates_are_counted_with_the_draws(caplog):
  config = repeated(digits.get_config(), 4, num_epochs=10.0, global_batch_size=64)
  settings.read(config, FEW)
  assert (
    '30 updates are few to learn from: 10 epochs of 48 pictures, each 4 times, in batches of 64. '
    'Train for 34 epochs or more' in caplog.text
  )


def test_the_published_multiplicity():
  """Of arXiv 2105.13343: F5, SAM, 16 draws of each picture; as many updates as [NFNet]."""
  run = settings.read(nfnet_imagenet.get_config('F5x16'), IMAGENET)
  assert (run.variant, run.data.augmentations_per_image) == ('F5', 16)
  assert (run.step.sam_rho, run.step.sam_ascent_share) == (0.05, 1.0)
  assert run.plan.total_steps == 112_603  # 360 * 1,281,167 / 4,096
  warmed_up = 5 * 1_281_167 / 4096
  assert run.step.schedule(0.5 * warmed_up) == pytest.approx(0.8)
  assert run.step.schedule(warmed_up) == pytest.approx(1.6)


@pytest.mark.parametrize('variant', ['F3+', 'F7+'])
def test_the_published_pretraining(variant):
  """Of arXiv 2310.16764."""
  config = pretrain.get_config(variant)
  config.num_epochs = 8.0  # as a flag
  run = settings.read(config, IMAGENET)
  assert (run.variant, run.data.global_batch_size) == (variant, 4096)
  assert (run.data.image_size, run.data.eval_image_size) == (224, 256)
  assert run.step.clipping == 0.01
  steps, warmed_up = run.plan.total_steps, run.plan.total_steps / 12
  assert steps == 2502  # 8 * 1,281,167 / 4,096
  assert run.step.schedule(warmed_up) == pytest.approx(1.6, rel=1e-3)
  assert run.step.schedule((warmed_up + steps) / 2) == pytest.approx(0.8, rel=1e-2)  # a cosine
  assert run.step.schedule(steps) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(('argument', 'draws'), [('imagenet', 1), ('imagenetx4', 4)])
def test_the_published_fine_tuning(argument, draws):
  """Of arXiv 2310.16764: 50 epochs, here in updates; the rest is of [NFNet], section 6."""
  config = finetune.get_config(argument)
  config.model.variant = 'F7+'  # of the weights
  run = settings.read(config, IMAGENET)
  assert run.data.augmentations_per_image == draws
  assert (run.data.image_size, run.data.eval_image_size) == (384, 480)
  assert run.config['num_epochs'] == 50 / draws
  assert run.plan.total_steps == 31_278  # 50 * 1,281,167 / 2,048
  assert (run.step.sam_rho, run.spec.drop_rate, run.spec.stochdepth_rate) == (0.05, 0.25, 0.1)


def test_arguments_that_are_no_recipe_are_named():
  for recipe, argument in (
    (nfnet_imagenet, 'F5x'),
    (nfnet_imagenet, 'F5x0'),
    (finetune, 'imagenetx-4'),
  ):
    with pytest.raises(ValueError, match=f'the argument :{argument} asks for .* from 1, such as :'):
      recipe.get_config(argument)
  for argument in ('mnist', 'folderx4'):
    sentence = f'takes :folder, :imagenet or :imagenetx4, got :{argument}'
    with pytest.raises(ValueError, match=sentence):
      finetune.get_config(argument)
