"""The training program as its users meet it: whole runs, interruptions, bad input."""

import csv
import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest

import nfnets
from experiments.data.sources import in_memory
from experiments.reporting import recording
from nfnets import weights

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = pathlib.Path(__file__).parent / 'tiny_config.py'


def final_arrays(workdir):
  """The EMA weights, and the checksums of everything in the last checkpoint."""
  params, _ = weights.load(workdir / 'ema_weights.safetensors')
  last = max(int(p.name) for p in (workdir / 'checkpoints').iterdir() if p.name.isdigit())
  checksums = json.loads((workdir / 'checkpoints' / str(last) / 'checksums/metadata').read_text())
  return params, checksums, last


def kill_after(process, workdir, step):
  """Kills the process with signal 9 once it has logged a step from `step` on; returns that step."""
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and process.poll() is None:
    path = workdir / 'metrics.csv'
    series = recording.read_csv(path).get('train/loss') if path.exists() else None
    if series is not None and len(series.steps) and series.steps[-1] >= step:
      process.kill()
      process.communicate()
      return series.steps[-1]
    time.sleep(0.01)
  raise AssertionError(f'the run did not reach step {step}: {process.communicate()[0]}')


@pytest.fixture(scope='module')
def unbroken(train, tmp_path_factory):
  """Number of devices -> the directory of a run that nobody interrupted."""
  runs = {}

  def run(devices):
    if devices not in runs:
      runs[devices] = tmp_path_factory.mktemp(f'unbroken{devices}')
      train(runs[devices], devices=devices)
    return runs[devices]

  return run


@pytest.mark.parametrize('devices', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_killed_run_continues_bit_for_bit(unbroken, start_training, train, tmp_path, devices):
  expected, expected_checksums, last = final_arrays(unbroken(devices))
  killed_at = kill_after(start_training(tmp_path, devices=devices), tmp_path, step=20)
  assert killed_at < last == 64
  # The rest with another number of workers: the input does not depend on it.
  output = train(tmp_path, '--config.data.num_workers=2', devices=devices)
  assert re.search(r'Resuming at step [1-9]\d*\.', output)
  params, checksums, _ = final_arrays(tmp_path)
  assert checksums == expected_checksums
  for module, entries in expected.items():
    for name, value in entries.items():
      np.testing.assert_array_equal(params[module][name], value)
  # The metrics are those of the unbroken run, without gaps or repetitions.
  want, got = (recording.read_csv(d)['train/loss'] for d in (unbroken(devices), tmp_path))
  common = np.isin(got.steps, want.steps)
  assert set(want.steps) <= set(got.steps)
  np.testing.assert_array_equal(got.values[common], want.values)


def test_what_a_run_leaves(unbroken):
  workdir = unbroken(1)
  report = json.loads((workdir / 'report.json').read_text())
  assert report['count'] == 360  # the whole test set
  assert report['steps'] == 64
  assert 0 < report['top1'] <= report['top5'] <= 1
  assert (workdir / 'curves.png').read_bytes().startswith(b'\x89PNG')
  params, metadata = weights.load(workdir / 'ema_weights.safetensors')
  assert metadata['spec']['width'] == [16, 16]
  assert params['NFNet/~/linear']['w'].shape == (32, 10)
  assert list(workdir.glob('events.out.tfevents.*'))
  assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['60', '64']


def test_the_weights_file_alone_labels_as_the_test_did(unbroken):
  classifier = nfnets.Classifier.from_pretrained(
    unbroken(1) / 'ema_weights.safetensors', batch_size=90
  )
  assert classifier.class_names == tuple('0123456789')
  assert (classifier.mode, classifier.size) == ('resize', 16)
  _, source = in_memory.digits(None)
  ranked = classifier(list(source.images), top=1)
  labels = np.array([int(predictions[0].label) for predictions in ranked])
  report = json.loads((unbroken(1) / 'report.json').read_text())
  assert np.mean(labels == source.labels) == pytest.approx(report['top1_ema'], abs=1.5 / 360)


def test_the_same_command_after_the_end_reports_again(unbroken, train):
  before = final_arrays(unbroken(1))
  output = train(unbroken(1))
  assert 'Resuming at step 64.' in output
  assert 'Done: test top-1' in output
  after = final_arrays(unbroken(1))
  assert after[1:] == before[1:]
  np.testing.assert_array_equal(after[0]['NFNet/~/linear']['w'], before[0]['NFNet/~/linear']['w'])


@pytest.mark.parametrize(
  ('arguments', 'code', 'sentence'),
  [
    (['--config.model.variant=F9', '--config.model.spec={}'], 1, "Unknown model 'F9'"),
    (['--config.model.activation=gleu'], 1, "got 'gleu'. Did you mean"),
    (['--config.data.source=cifar'], 1, "'cifar'"),
    (['--config.learning_rate=1'], 2, "the config has no field 'learning_rate': configs/base.py"),
    (['--config.sed=1'], 2, "'sed': configs/base.py lists all fields. Did you mean 'seed'?"),
    (['--config.data.sed=1'], 2, "the config has no field 'sed': configs/base.py lists"),
    (['--config.seed=many'], 2, '--config.seed must be a whole number, got many'),
    (
      ['--config.global_batch_size=0'],
      1,
      '--config.global_batch_size must be a whole number from 1',
    ),
    (['--config.num_epochs=0.001'], 1, 'less than one batch of 32'),
    (['--config.accumulation_steps=3'], 1, 'does not divide the 32 images of each device'),
    (['--config.compute_dtype=float16'], 1, "must be one of 'float32', 'bfloat16', got 'float16'"),
    (['--config.model.num_classes=5'], 1, 'model.num_classes is 5, but the data has 10 classes'),
    (['--config.data.source=folder', '--config.data.dir=missing'], 1, 'missing'),
    (['stray'], 2, "unexpected argument 'stray'"),
  ],
)
def test_bad_input_is_one_sentence(train, tmp_path, arguments, code, sentence):
  workdir = tmp_path / 'run'
  output = train(workdir, *arguments, code=code)
  assert sentence in output
  assert 'Traceback' not in output
  assert not workdir.exists()


def test_a_batch_that_the_devices_cannot_share(train, tmp_path):
  output = train(tmp_path / 'run', '--config.global_batch_size=30', devices=4, code=1)
  assert 'global_batch_size is 30, which 4 devices cannot share equally: use a multiple' in output
  assert 'such as 32' in output


@pytest.mark.parametrize('arguments', [[], ['--config.seed=1']])
def test_a_config_file_that_is_missing(train, tmp_path, arguments):
  output = train(tmp_path / 'run', *arguments, config='configs/missing.py', code=2)
  assert 'Error: there is no config file configs/missing.py: those that come with' in output
  recipes = (
    'are audio_folder, digits, finetune, image_folder, nfnet_imagenet, pretrain, private, '
    'private_finetune, small_images.'
  )
  assert recipes in output
  assert output.count('\n') == 1


@pytest.mark.parametrize(
  ('text', 'sentence'),
  [
    ('x = 1', 'the config file has no function get_config(): configs/base.py shows one.'),
    ('x = (', "the config cannot be loaded: '(' was never closed (own.py, line 1)"),
    ('import nothing_of_this_name', "cannot be loaded: No module named 'nothing_of_this_name'"),
  ],
)
def test_a_config_file_that_cannot_be_used(train, tmp_path, text, sentence):
  (tmp_path / 'own.py').write_text(text)
  output = train(tmp_path / 'run', config=str(tmp_path / 'own.py'), code=2)
  assert sentence in output
  assert output.count('\n') == 1


def test_a_workdir_of_another_config_is_left_alone(unbroken, train):
  before = sorted(p.stat().st_mtime_ns for p in unbroken(1).rglob('*'))
  output = train(unbroken(1), '--config.seed=7', code=1)
  assert 'holds a run of another config (--config.seed: 0 -> 7)' in output
  assert sorted(p.stat().st_mtime_ns for p in unbroken(1).rglob('*')) == before


def test_a_foreign_workdir_is_left_alone(train, tmp_path):
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  output = train(tmp_path, code=1)
  assert 'has checkpoints but no config.json, so it is not a run of this program' in output
  assert [p.name for p in tmp_path.iterdir()] == ['checkpoints']


def test_the_newest_damaged_checkpoint_is_named_and_the_one_before_is_used(train, tmp_path):
  train(tmp_path, '--config.num_epochs=0.25')  # 11 steps: checkpoints 10 and 11
  expected, checksums, last = final_arrays(tmp_path)
  for path in (tmp_path / f'checkpoints/{last}').rglob('d/*'):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  output = train(tmp_path, '--config.num_epochs=0.25')
  assert f'step {last}' in output
  assert 'is damaged' in output
  assert 'Resuming at step 10.' in output
  params, again, _ = final_arrays(tmp_path)
  assert again == checksums
  np.testing.assert_array_equal(params['NFNet/~/linear']['w'], expected['NFNet/~/linear']['w'])
  assert list((tmp_path / 'damaged_checkpoints').iterdir())


def test_a_folder_of_pictures_with_a_corrupt_one(train, tmp_path):
  rng = np.random.default_rng(0)
  for split, count in (('train', 20), ('test', 5)):
    for label, tone in (('dark', 60), ('light', 190)):
      folder = tmp_path / 'pictures' / split / label
      folder.mkdir(parents=True)
      for i in range(count):
        pixels = np.clip(rng.normal(tone, 20, (24, 30, 3)), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f'{i}.png')
  broken = tmp_path / 'pictures/train/dark/3.png'
  broken.write_bytes(broken.read_bytes()[:40])
  arguments = [
    '--config.data.source=folder',
    f'--config.data.dir={tmp_path / "pictures"}',
    '--config.num_epochs=8',
    '--config.data.eval_batch_size=4',
  ]
  output = train(tmp_path / 'run', *arguments)
  assert str(broken.relative_to(tmp_path / 'pictures')) in output
  report = json.loads((tmp_path / 'run/report.json').read_text())
  assert report['class_names'] == ['dark', 'light']
  assert report['count'] == 10
  assert report['corrupt_training_pictures'] == 1
  lines = output.splitlines()
  # What is silent is announced, and no rate contains it.
  assert '10 updates are few to learn from: 8 epochs of 40 pictures in batches of 32.' in output
  assert "test images of 'pictures' at 16 and 16 px" in output
  compiling = lines.index('Compiling the train step, once: about a minute on a CPU.')
  steps = [line for line in lines[compiling:] if line.startswith('step')]
  assert re.match(r'step +1/10 .* - images/s  ETA -$', steps[0])
  assert re.match(r'step +4/10 .* [0-9.]+ images/s  ETA \d+', steps[1])
  with (tmp_path / 'run/predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert sorted(row['picture'] for row in rows) == sorted(
    f'test/{kind}/{i}.png' for kind in ('dark', 'light') for i in range(5)
  )
  assert all(row['truth'] == row['picture'].split('/')[1] for row in rows)
  assert all((row['right'] == 'yes') == (row['truth'] == row['prediction']) for row in rows)
  assert sum(row['right'] == 'yes' for row in rows) == round(10 * report['top1_ema'])
  assert all(0.5 <= float(row['probability']) <= 1 for row in rows)
  # The same data with no corrupt picture allowed ends with the picture's name.
  output = train(tmp_path / 'strict', *arguments, '--config.data.max_corrupt_fraction=0', code=1)
  assert '3.png' in output
  assert 'Traceback' not in output


def test_no_readable_checkpoint_is_an_error_not_a_new_start(train, tmp_path):
  train(tmp_path, '--config.num_epochs=0.25', '--config.keep_checkpoints=1')
  for path in (tmp_path / 'checkpoints').rglob('d/*'):
    path.write_bytes(b'')
  output = train(tmp_path, '--config.num_epochs=0.25', '--config.keep_checkpoints=1', code=1)
  assert 'No checkpoint in' in output
  assert 'use another --workdir' in output


def evaluate(*arguments, code=0):
  command = [sys.executable, '-m', 'experiments.evaluate', *arguments]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == code, done.stderr
  return done


def test_the_weights_of_a_run_evaluate_to_the_figures_of_its_report(unbroken):
  workdir = unbroken(1)
  weights_file = workdir / 'ema_weights.safetensors'
  results = json.loads(evaluate(f'--config={CONFIG}', f'--weights={weights_file}').stdout)
  report = json.loads((workdir / 'report.json').read_text())
  assert results['count'] == 360
  assert results['top1'] == report['top1_ema']
  assert results['loss'] == pytest.approx(report['loss_ema'], rel=1e-5)
  # The run alone says where its pictures are; the default config, the digits, has other batches.
  done = evaluate(f'--workdir={workdir}', '--config.data.eval_batch_size=90')
  assert json.loads(done.stdout)['loss'] == pytest.approx(report['loss_ema'], rel=1e-5)
  assert 'Compiling the evaluation, once' in done.stderr


@pytest.mark.parametrize(
  ('files', 'flags', 'sentence'),
  [
    ([], ['--workdir={}'], 'is a folder, but not of a training run'),
    (['config.json'], ['--weights={}'], 'is not finished, so it has no ema_weights.safetensors'),
    ([], [], 'give either --weights=FILE or --workdir=RUN'),
    ([], ['--weights={}', '--workdir={}'], 'give either --weights=FILE or --workdir=RUN'),
  ],
)
def test_what_is_no_run_is_said(tmp_path, files, flags, sentence):
  for name in files:
    (tmp_path / name).write_text('{}')
  code = 1 if len(flags) == 1 else 2
  done = evaluate(*(flag.format(tmp_path) for flag in flags), code=code)
  assert sentence in ' '.join(done.stderr.split()), done.stderr
  assert 'Traceback' not in done.stderr
