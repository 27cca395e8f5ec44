"""Fine-tuning as its users meet it: weights of a file, a folder of pictures, whole runs."""

import json

import jax
import numpy as np
import pytest
from small_finetuning import HEAD, SPEC, STEM, on_folder

import nfnets
from configs import digits
from experiments import evaluate, train
from experiments.data import sources
from experiments.reporting import recording
from experiments.runtime.errors import ConfigError, NonFiniteError
from experiments.training import initial_weights, settings
from nfnets import weights


@pytest.fixture(scope='module')
def tuned(make_config, tmp_path_factory):
  """The folder of a run with a frozen stem, a first convolution of rate 0 and a profile."""
  workdir = tmp_path_factory.mktemp('tuned')
  config = make_config(
    frozen=('NFNet/~/stem_conv*',), learning_rate_multipliers={'NFNet/~/nf_block/~/conv0': 0.0}
  )
  config.profile = '2:3'
  config.optimizer.sam_timing = True
  train.train(config, workdir)
  return workdir


def test_frozen_parameters_keep_every_bit_and_the_head_is_new(tuned, trunk):
  before, _ = weights.load(trunk)
  after, metadata = weights.load(tuned / 'ema_weights.safetensors')
  assert metadata['spec']['drop_rate'] == 0.25
  for module, entries in after.items():
    for name, value in entries.items():
      same = value.tobytes() == before[module][name].tobytes()
      if module == STEM:
        assert same, name
      elif module == 'NFNet/~/nf_block/~/conv0':
        np.testing.assert_array_equal(value, before[module][name])
      elif name == 'w':
        assert not same, module
  old, new = before[HEAD]['w'], after[HEAD]['w']
  assert abs(np.corrcoef(old.ravel(), new.ravel())[0, 1]) < 0.5


def test_the_report_shows_what_is_confused_and_the_worst_mistakes(tuned):
  report = json.loads((tuned / 'report.json').read_text())
  for name in ('confusion.png', 'mistakes.png'):
    assert (tuned / name).read_bytes().startswith(b'\x89PNG')
  found = report['worst_mistakes']
  assert 1 <= len(found) <= 24
  assert all(m['label'] != m['predicted'] for m in found)
  assert all((m['name'].split('/')[1]) == m['label'] for m in found)
  certainty = [m['label_probability'] for m in found]
  assert certainty == sorted(certainty)
  assert report['seconds_per_step'] > 0
  assert report['sam_seconds_per_step'] > 0


def test_what_is_watched(tuned):
  series = recording.read_csv(tuned)
  for name in ('sam_seconds_per_step', 'ascent_loss', 'gradient_norm', 'images_per_second'):
    assert np.all(series[f'train/{name}'].values > 0), name
  # The stem is frozen, so it is not counted.
  shares = {name.split('/')[-1] for name in series if name.startswith('train/clipped_share/')}
  assert shares == {'weights', 'gains_and_biases', 'stage_1', 'head'}
  for name in ('weights', 'classifier', 'gains_and_biases'):
    assert np.all(series[f'train/weight_norm/{name}'].values > 0)
  assert list((tuned / 'profile').rglob('*.xplane.pb'))


def test_a_weights_file_evaluates_at_any_size_whatever_the_configs_model_is(tuned, folder):
  config = on_folder(digits.get_config(), folder)
  report = json.loads((tuned / 'report.json').read_text())
  results = evaluate.evaluate_file(config, tuned / 'ema_weights.safetensors')
  assert results['count'] == 60
  assert results['top1'] == report['top1_ema']
  config.data.eval_image_size = 24
  other = evaluate.evaluate_file(config, tuned / 'ema_weights.safetensors', ('eval_image_size',))
  assert other['count'] == 60
  assert other['loss'] != results['loss']


def test_a_linear_probe_trains_the_head_alone_and_saves_whole_weights(
  make_config, trunk, tmp_path, capsys
):
  config = make_config(linear_probe=True)
  first = train.train(config, tmp_path)
  lines = capsys.readouterr().out.splitlines()
  compiling = lines.index('Compiling the network, once: about a minute on a CPU.')
  assert lines[compiling + 1] == 'Computing the features of 40 pictures.'
  step_line = next(line for line in lines if line.startswith('step'))
  assert step_line.endswith('- images/s  ETA -')  # its clock starts after the first step
  params, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  before, _ = weights.load(trunk)
  for module in before:
    for name, value in before[module].items():
      assert (params[module][name].tobytes() == value.tobytes()) == (module != HEAD)
  # The saved weights as a whole do what the head did on the features.
  config.finetune.linear_probe = False
  whole = evaluate.evaluate_file(config, tmp_path / 'ema_weights.safetensors')
  assert whole['top1'] == first['top1_ema']
  assert whole['loss'] == pytest.approx(first['loss_ema'], rel=1e-4)
  # Again: from the stored features, to the same bits.
  config.finetune.linear_probe = True
  train.train(config, tmp_path)
  assert 'Using the features in' in capsys.readouterr().out
  again, _ = weights.load(tmp_path / 'ema_weights.safetensors')
  np.testing.assert_array_equal(again[HEAD]['w'], params[HEAD]['w'])


def test_a_linear_probe_that_diverges_stops(make_config, tmp_path):
  config = make_config(linear_probe=True)
  config.optimizer.update({'learning_rate': 1e38, 'clipping': 0.0, 'sam_rho': 0.0})
  with pytest.raises(NonFiniteError, match=r'of step \d+ is not finite.*starts again at the begin'):
    train.train(config, tmp_path)
  (left,) = tmp_path.glob('nonfinite_step_*.safetensors')
  assert set(weights.load(left, allow_nonfinite=True)[0]) == {HEAD}
  assert not (tmp_path / 'report.json').exists()


def test_features_are_computed_again_when_a_picture_changes(make_config, folder):
  chosen = settings.read(make_config(linear_probe=True)).data
  before = sources.file_stats(chosen)
  picture = next((folder / 'train').rglob('*.png'))
  data = picture.read_bytes()
  picture.write_bytes(data + b'\0')
  assert sources.file_stats(chosen) != before
  picture.write_bytes(data)


def test_the_variant_follows_from_the_weights(make_config, trunk):
  run = settings.read(make_config())
  assert run.variant == 'custom'
  assert run.spec == SPEC.replace(drop_rate=0.25, stochdepth_rate=0.1)
  assert run.data.image_size == 16
  config = settings.resolve(make_config())
  assert settings.resolve(config) == config
  assert initial_weights.find_spec('F1') == nfnets.zoo.get_spec('F1')


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'model.variant': 'F0'}, 'holds another model than --config.model.variant=F0'),
    ({'model.pretrained': 'F99'}, 'neither the name of published weights nor a file'),
    ({'model.pretrained': '', 'model.variant': 'F0', 'finetune.linear_probe': True}, 'is for pre'),
    ({'finetune.frozen': ('NFNet/~/lin*',)}, 'covers the classifier NFNet/~/linear/w'),
    ({'optimizer.name': 'adam'}, "optimizer.name must be one of 'sgd', 'adamw', got 'adam'"),
    ({'optimizer.sam_rho': -1.0}, '--config.optimizer.sam_rho must be a number from 0 to 100'),
    ({'optimizer.sam_ascent_share': 0.0}, 'above 0 and at most 1'),
    ({'profile': '5'}, "profile must be 'a:b'"),
    ({'profile': '7:5'}, "profile must be 'a:b'"),
  ],
)
def test_fields_that_cannot_be_used(make_config, change, sentence):
  config = make_config()
  config.update_from_flattened_dict(change)
  with pytest.raises(ValueError, match=sentence):
    settings.resolve(config)


def test_weights_of_another_number_of_classes_keep_their_head_only_if_it_fits(trunk):
  params, _ = weights.load(trunk)
  wider = {**params, HEAD: {'w': np.zeros((32, 7), np.float32), 'b': np.zeros(7, np.float32)}}
  with pytest.raises(
    ConfigError, match='knows 5 classes and the run has 7: set --config.finetune.new_head'
  ):
    initial_weights.start_from(str(trunk), wider, {}, new_head=False)
  loaded, _ = initial_weights.start_from(str(trunk), params, {}, new_head=False)
  np.testing.assert_array_equal(loaded[HEAD]['w'], params[HEAD]['w'])


@pytest.mark.parametrize(('name', 'kind'), [('sgd', 'TraceState'), ('adamw', 'ScaleByAdamState')])
def test_the_optimizer_is_the_one_that_the_config_names(make_config, trunk, name, kind):
  config = make_config()
  config.optimizer.name = name
  run = settings.read(config)
  state = run.optimizer.init(weights.load(trunk)[0])
  assert kind in str(jax.tree.structure(state))
  assert run.step.clipping == 0.16  # follows from the batch of 20
  assert (run.step.sam_rho, run.step.sam_ascent_share) == (0.05, 0.2)
