"""Two processes on loopback that were not given the same: both say what differs, and end."""

import json

import haiku as hk
import jax
import numpy as np
import PIL.Image
import pytest

import nfnets
from configs import base
from experiments import data
from experiments.data import sources
from nfnets import weights


def test_a_directory_that_the_hosts_do_not_share_is_refused(start_processes, ends_alike, tmp_path):
  each = [[f'--workdir={tmp_path / name}'] for name in ('here', 'there')]
  for output in ends_alike(start_processes(None, processes=2, devices=1, each=each)):
    assert 'process 1 does not see the files that process 0 writes to' in output
  assert not list(tmp_path.rglob('*seen_by_all*'))
  assert not list(tmp_path.rglob('config.json'))


@pytest.mark.parametrize(
  ('flags', 'difference'),
  [
    (
      ['--config.evaluate_every_epochs=1.0', '--config.evaluate_every_epochs=2.0'],
      '--config.evaluate_every_epochs: 1.0 in process 0, 2.0 in process 1',
    ),
    (
      ['--config.data.num_threads=1', '--config.data.num_threads=2 --config.data.flip=False'],
      '--config.data.flip: true in process 0, false in process 1',
    ),
  ],
)
def test_hosts_with_different_flags_are_told_the_field(
  start_processes, ends_alike, tmp_path, flags, difference
):
  base = '--config.data.flip=True' if 'flip' in difference else '--config.seed=0'
  each = [[base, *text.split()] for text in flags]
  for output in ends_alike(start_processes(tmp_path, processes=2, devices=1, each=each)):
    assert f'the processes differ in {difference}: start all of them' in output
  assert not (tmp_path / 'config.json').exists()


def make_folder(root, classes):
  for name in classes:
    (root / name).mkdir(parents=True)
    for i in range(20):
      pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
      PIL.Image.fromarray(pixels).save(root / name / f'{i}.png')
  return f'--config.data.dir={root}'


FOLDER = ['--config.data.source=folder', '--config.data.mixing=none']


def test_hosts_with_different_classes_are_told_the_name(start_processes, ends_alike, tmp_path):
  each = [
    [make_folder(tmp_path / 'a', ['cat', 'dog'])],
    [make_folder(tmp_path / 'b', ['cat', 'fox'])],
  ]
  both = start_processes(tmp_path / 'run', *FOLDER, processes=2, devices=1, each=each)
  for output in ends_alike(both):
    assert 'differ in data set.class_names[1]: "dog" in process 0, "fox" in process 1' in output


def test_an_error_of_one_hosts_data_ends_a_run_on_its_way(start_processes, ends_alike, tmp_path):
  each = [[make_folder(tmp_path / f'host{i}', ['cat', 'dog'])] for i in range(2)]
  config = base.get_config()
  config.data.update(source='folder', dir=str(tmp_path / 'host1'))
  training, _ = sources.open_sources(data.DataSettings.from_config(config))
  for path in training.paths():
    path.write_bytes(b'not a picture')
  both = start_processes(tmp_path / 'run', *FOLDER, processes=2, devices=1, each=each)
  outputs = ends_alike(both)
  assert 'process 1 of 2 fails: ' in outputs[1]
  assert 'are unreadable' in outputs[1]
  assert 'process 0 of 2 stops because process 1 failed: ' in outputs[0]


SPEC = nfnets.ModelSpec(
  width=(16,), depth=(1,), stride=(1,), group_width=8, stem=((3, 4, 8),), train_size=8, test_size=8
)


def save_weights(path, seed):
  network = hk.transform(lambda x: nfnets.create_model(SPEC, 10)(x, False))
  params = jax.jit(network.init)(jax.random.key(seed), np.zeros((1, 8, 8, 3)))
  weights.save(path, params, spec=SPEC.to_dict())
  return f'--weights={path}'


def test_evaluation_by_two_is_that_of_one(start_processes, start_training, tmp_path):
  flag = save_weights(tmp_path / 'a.safetensors', 0)
  whole, _ = start_training(None, flag, program='evaluate').communicate(timeout=300)
  two = start_processes(None, flag, processes=2, devices=1, program='evaluate')
  outputs = [process.communicate(timeout=300)[0] for process in two]
  assert [p.returncode for p in two] == [0, 0], '\n'.join(outputs)
  want, got = (json.loads(text[text.index('{') :]) for text in (whole, outputs[0]))
  assert got.pop('loss') == pytest.approx(want.pop('loss'), rel=1e-5)
  assert got == want
  assert got['count'] == 360
  assert '{' not in outputs[1]


def test_evaluation_of_different_weights_is_refused(start_processes, ends_alike, tmp_path):
  each = [[save_weights(tmp_path / f'{i}.safetensors', i)] for i in range(2)]
  for output in ends_alike(
    start_processes(None, processes=2, devices=1, each=each, program='evaluate')
  ):
    assert 'the processes differ in checksums of the weights[' in output


@pytest.mark.slow
def test_a_damaged_checkpoint_is_moved_aside_by_one_and_skipped_by_both(
  start_processes, ends_alike, tmp_path
):
  flags = ['--config.num_epochs=0.34', '--config.model.drop_rate=0.0']  # 15 steps

  def run():
    processes = start_processes(tmp_path, *flags, processes=2, devices=1)
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [p.returncode for p in processes], outputs

  assert run()[0] == [0, 0]
  final, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  last = max(int(path.name) for path in (tmp_path / 'checkpoints').iterdir())
  (tmp_path / f'checkpoints/{last}/checksums/metadata').write_text('{}')
  codes, outputs = run()
  assert codes == [0, 0], '\n'.join(outputs)
  assert f'Resuming at step {last - 5}.' in outputs[0]
  assert [path.name for path in (tmp_path / 'damaged_checkpoints').iterdir()] == [f'{last}-0']
  again, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  jax.tree.map(np.testing.assert_array_equal, again, final)

  for path in (tmp_path / 'checkpoints').glob('*/checksums/metadata'):
    path.write_text('{}')
  for output in ends_alike(start_processes(tmp_path, *flags, processes=2, devices=1)):
    assert 'No checkpoint in' in output
