"""What the number of training pictures decides, and what it leaves as it was."""

import json

import cv2
import numpy as np
import pytest

from configs import digits, finetune, image_folder, nfnet_imagenet, small_images
from experiments.data import DatasetInfo
from experiments.runtime.errors import CheckpointError
from experiments.training import settings, work_directory


def info(num_train):
  return DatasetInfo(num_train, 12, 3, ('a', 'b', 'c'))


def of(recipe, num_train, **changes):
  config = recipe.get_config()
  config.data.source, config.data.dir = 'folder', 'pictures'
  config.update_from_flattened_dict(changes)
  return settings.read(config, info(num_train))


def chosen(run):
  config = run.config
  return (
    config['num_epochs'],
    config['global_batch_size'],
    config['optimizer']['learning_rate'],
    config['optimizer']['warmup_epochs'],
  )


def test_thousands_of_pictures_have_the_recipes_of_before():
  """Which wrote these values down, so that such runs compute what they computed."""
  for num_train in (1000, 1437, 5000, 50_000):
    run = of(image_folder, num_train)
    if num_train <= 5000:
      assert chosen(run) == (60.0, 64, 0.4, 5.0)
    assert run.config['model']['spec'] == {
      'width': (64, 128, 256, 256),
      'depth': (1, 2, 3, 2),
      'group_width': 16,
      'drop_rate': 0.2,
      'train_size': 96,
      'test_size': 128,
    }
    assert (run.variant, run.data.image_size, run.data.eval_image_size) == ('custom', 96, 128)
    assert (run.data.crop, run.data.eval_mode) == ('random', 'crop_resize')
    run = of(small_images, num_train)
    assert chosen(run) == (60.0, 64, 0.4, 3.0)
  assert of(image_folder, 1437).plan.total_steps == 1347


def test_the_time_grows_with_the_root_of_the_number_where_the_network_is_chosen_too():
  def seen(num_train, **changes):
    return of(image_folder, num_train, **changes).plan.epochs * num_train

  assert seen(20_000) == pytest.approx(2 * seen(5000), rel=1e-3)
  assert seen(20_000, **{'model.variant': 'F0'}) == pytest.approx(4 * seen(5000), rel=1e-3)


def tiny_pictures(folder, side, count=3):
  """A folder of pictures whose shorter side has so many pixels, one of them cut off."""
  for kind in ('cat', 'dog'):
    (folder / kind).mkdir(parents=True)
    for i in range(count):
      cv2.imwrite(str(folder / kind / f'{i}.png'), np.zeros((side, 2 * side, 3), np.uint8))
  (folder / 'cat' / '0.png').write_bytes(b'cut off')
  return str(folder)


@pytest.mark.parametrize(('side', 'size'), [(8, 16), (28, 28), (30, 32), (48, 48)])
def test_small_pictures_get_a_network_of_their_size(side, size, tmp_path):
  config = image_folder.get_config()
  config.data.dir = tiny_pictures(tmp_path / 'pictures', side)
  run = settings.read(config)
  assert (run.data.image_size, run.data.eval_image_size) == (size, size)
  assert (run.data.crop, run.data.eval_mode) == ('shift', 'resize')
  assert {'data.crop', 'data.eval_mode'} <= run.left_open
  config.data.crop, config.data.eval_mode = 'random', 'center'
  run = settings.read(config)
  assert (run.data.crop, run.data.eval_mode) == ('random', 'center')


def test_pictures_that_are_not_small_are_shrunk_with_a_margin_that_leaves_enough(tmp_path):
  config = image_folder.get_config()
  config.data.dir = tiny_pictures(tmp_path / 'pictures', 49)
  run = settings.read(config)
  assert (run.data.eval_image_size, run.data.crop) == (64, 'random')
  assert run.data.eval_mode == 'resize_crop_0.875'


def test_a_margin_that_hides_much_is_said_beforehand(caplog):
  def warnings_at(size, mode):
    caplog.clear()
    of(image_folder, 2000, **{'data.eval_image_size': size, 'data.eval_mode': mode})
    return [record.getMessage() for record in caplog.records]

  assert warnings_at(32, 'crop_resize') == [
    '--config.data.eval_mode=crop_resize cuts a margin off every test picture, and at 32 pixels '
    'the central 50% of each side are left: --config.data.eval_mode=resize keeps the whole picture.'
  ]
  assert '67%' in warnings_at(64, 'resize_crop_32')[0]
  assert not warnings_at(96, 'crop_resize')
  assert not warnings_at(32, 'resize')


def test_few_pictures_get_updates_enough_of_a_narrow_network():
  run = of(image_folder, 48)
  assert run.plan.total_steps == 400
  assert chosen(run)[1:3] == (16, 0.8)
  assert run.data.image_size == 64
  assert run.step.schedule(int(400 / 12) + 1) == pytest.approx(0.05, rel=1e-3)
  # The more pictures there are, the more are seen, on both sides of each bound.
  runs = [of(image_folder, n) for n in (30, 106, 107, 249, 250, 999, 1000)]
  seen = [run.plan.total_steps * run.data.global_batch_size for run in runs]
  assert seen == sorted(seen)


@pytest.mark.parametrize('recipe', [image_folder, small_images, digits])
@pytest.mark.parametrize('num_train', [20, 48, 300, 1437, 50_000])
def test_curves_have_points_enough(recipe, num_train):
  run = of(recipe, num_train)
  points = run.plan.total_steps / run.log_every_steps
  evaluations = run.plan.evaluation_steps(run.evaluate_every_epochs)
  least = min(20, run.plan.total_steps)
  assert points >= least
  assert len(evaluations) >= least
  assert run.log_every_steps <= 50


def test_what_has_a_value_stays():
  changes = {
    'num_epochs': 7.0,
    'global_batch_size': 8,
    'log_every_steps': 3,
    'evaluate_every_epochs': 0.0,
    'model.variant': 'F0',
    'optimizer.learning_rate': 0.3,
    'optimizer.warmup_epochs': 1.0,
    'data.crop': 'none',
    'data.eval_mode': 'squash',
  }
  run = of(image_folder, 300, **changes)
  assert chosen(run) == (7.0, 8, 0.3, 1.0)
  assert (run.variant, run.data.image_size) == ('F0', 192)
  assert (run.log_every_steps, run.evaluate_every_epochs) == (3, 0.0)
  assert run.left_open == frozenset()


def test_the_length_follows_a_batch_that_is_given():
  assert of(image_folder, 48, global_batch_size=4).plan.total_steps == 60 * 48 / 4
  assert of(image_folder, 48, global_batch_size=64).plan.total_steps == 400


def test_the_recipe_of_the_paper_leaves_nothing_open():
  config = nfnet_imagenet.get_config()
  config.data.source = 'synthetic'
  assert settings.read(config, info(100_000)).left_open == frozenset()


def test_a_batch_is_shared_by_devices_and_slices(monkeypatch):
  monkeypatch.setattr('jax.device_count', lambda: 6)
  run = of(image_folder, 48, accumulation_steps=2)
  assert run.data.global_batch_size == 24


def test_fine_tuning_keeps_its_published_rates(trunk):
  def tuned(num_train):
    return of(finetune, num_train, **{'model.pretrained': str(trunk)})

  assert chosen(tuned(5000)) == (30.0, 64, 0.0125, 10.0)
  few = tuned(48)
  assert few.plan.total_steps == 200
  assert few.config['optimizer']['warmup_epochs'] == pytest.approx(few.plan.epochs / 3, rel=0.01)


def test_too_few_updates_are_said_beforehand(caplog):
  of(image_folder, 48, num_epochs=60.0, global_batch_size=64)
  (record,) = caplog.records
  assert record.getMessage() == (
    '45 updates are few to learn from: 60 epochs of 48 pictures in batches of 64. Train for 134 '
    'epochs or more (--config.num_epochs=134), or take a smaller --config.global_batch_size.'
  )
  caplog.clear()
  assert of(image_folder, 48, num_epochs=134.0, global_batch_size=64).plan.total_steps >= 100
  assert not caplog.records


def write_pictures(folder, count):
  for kind in ('cat', 'dog'):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    for i in range(count):
      cv2.imwrite(str(folder / kind / f'{i}.png'), np.zeros((8, 8, 3), np.uint8))


def test_a_run_whose_pictures_have_changed_is_told_so(tmp_path):
  config = image_folder.get_config()
  config.data.dir = str(tmp_path / 'pictures')
  write_pictures(tmp_path / 'pictures', 4)

  def owned():
    run = settings.read(config)
    return work_directory.WorkDirectory(
      tmp_path / 'run', run.config, run.data, run.info.identity, run.left_open
    )

  with owned().opened():
    owned().claim()
  kept = json.loads((tmp_path / 'run/config.json').read_text())
  assert kept['num_epochs'] == pytest.approx(400 * 16 / 6)
  with owned().opened():  # the same
    pass
  write_pictures(tmp_path / 'pictures', 7)
  with (
    pytest.raises(CheckpointError, match='holds a run on other data; these are 6 -> 12 training'),
    owned().opened(),
  ):
    pass
  # What a flag has changed as well is named first.
  config.seed = 1
  with pytest.raises(CheckpointError, match='of another config'), owned().opened():
    pass
