"""Fine-tuning as its users meet it: weights of a file, a folder of pictures, whole runs."""

import functools
import json
import os
import shutil

import haiku as hk
import jax
import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_digits

import nfnets
from configs import digits, finetune
from experiments import evaluate, train
from experiments.data import sources
from experiments.data.sources import packed_folder
from experiments.reporting import recording
from experiments.runtime.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from experiments.training import initial_weights, settings, work_directory
from nfnets import weights

# One block: most of the time is compilation.
SPEC = nfnets.ModelSpec(
  width=(16,),
  depth=(1,),
  stride=(1,),
  group_width=8,
  stem=((3, 4, 8),),
  train_size=16,
  test_size=16,
)
STEM = 'NFNet/~/stem_conv0'
HEAD = 'NFNet/~/linear'


@pytest.fixture(scope='module')
def trunk(tmp_path_factory):
  """A file of weights of random values, -0.0 among them, for five classes."""
  network = hk.transform(lambda x: nfnets.create_model(SPEC, 5)(x, False))
  params = jax.jit(network.init)(jax.random.key(3), np.zeros((1, 16, 16, 3)))
  params = jax.tree.map(lambda x: np.array(x) + np.float32(0.01), params)
  params[STEM]['bias'][0] = -0.0
  path = tmp_path_factory.mktemp('trunk') / 'trunk.safetensors'
  weights.save(path, params, spec=SPEC.to_dict())
  return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Scikit-learn's digits 5 to 9 as PNG files: 8 of each to train on, 12 to test."""
  place = tmp_path_factory.mktemp('pictures')
  bunch = load_digits()
  for digit in range(5, 10):
    chosen = np.flatnonzero(bunch.target == digit)
    for split, part in (('train', chosen[:8]), ('test', chosen[8:20])):
      (place / split / str(digit)).mkdir(parents=True)
      for i in part:
        pixels = np.uint8(bunch.images[i] * 15)
        PIL.Image.fromarray(pixels).save(place / split / str(digit) / f'{i}.png')
  return place


def on_folder(config, folder):
  """Makes a config one of seconds."""
  config.num_epochs = 3.0
  config.global_batch_size = 20
  config.log_every_steps = 1
  config.evaluate_every_epochs = 0.0
  config.data.source = 'folder'
  config.data.dir = str(folder)
  config.data.crop = 'shift'
  config.data.flip = False
  config.data.eval_mode = 'resize'
  config.data.eval_batch_size = 60
  return config


@pytest.fixture(scope='module')
def make_config(trunk, folder):
  def make(**finetune_fields):
    config = on_folder(finetune.get_config(), folder)
    config.model.pretrained = str(trunk)
    for field, value in finetune_fields.items():
      config.finetune[field] = value
    return config

  return make


@pytest.fixture(scope='module')
def tuned(make_config, tmp_path_factory):
  """The folder of a run with a frozen stem, a first convolution of rate 0 and a profile."""
  workdir = tmp_path_factory.mktemp('tuned')
  config = make_config(
    frozen=('NFNet/~/stem_conv*',), learning_rate_multipliers={'NFNet/~/nf_block/~/conv0': 0.0}
  )
  config.profile = '2:3'
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
  other = evaluate.evaluate_file(config, tuned / 'ema_weights.safetensors')
  assert other['count'] == 60
  assert other['loss'] != results['loss']


def test_a_linear_probe_trains_the_head_alone_and_saves_whole_weights(
  make_config, trunk, tmp_path, capsys
):
  config = make_config(linear_probe=True)
  first = train.train(config, tmp_path)
  assert 'Computing the features of 40 pictures' in capsys.readouterr().out
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
  assert set(weights.load(left)[0]) == {HEAD}
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
    ({'model.variant': 'F0'}, "holds another model than model.variant='F0'"),
    ({'model.pretrained': 'F99'}, 'neither the name of published weights nor a file'),
    ({'model.pretrained': '', 'model.variant': 'F0', 'finetune.linear_probe': True}, 'is for pre'),
    ({'finetune.frozen': ('NFNet/~/lin*',)}, 'covers the classifier NFNet/~/linear/w'),
    ({'optimizer.name': 'adam'}, "must be 'sgd' .* or 'adamw', got 'adam'"),
    ({'optimizer.sam_rho': -1.0}, 'sam_rho must be 0'),
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
  with pytest.raises(ConfigError, match='knows 5 classes and the run has 7: set finetune.new_head'):
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


@pytest.fixture(scope='module')
def named(trunk, tmp_path_factory):
  """The trunk's weights with a classifier that tells all five digits apart, and their names."""
  params, metadata = weights.load(trunk)
  rng = np.random.default_rng(1)
  params[HEAD] = {'w': rng.normal(size=(32, 5)).astype(np.float32), 'b': np.arange(5.0, dtype='f4')}
  path = tmp_path_factory.mktemp('named') / 'named.safetensors'
  names = ['8', '6', '9', '5', '7']  # not as a folder sorts them
  weights.save(path, params, spec=metadata['spec'], metadata={'class_names': json.dumps(names)})
  return path


def logits_of_test_pictures(path, folder, digits_of_test):
  """By the library alone: (the class that the weights name, the true class) of each picture."""
  classifier = nfnets.Classifier.from_pretrained(path, mode='resize', size=16)
  files = [p for digit in digits_of_test for p in sorted((folder / 'test' / digit).iterdir())]
  ranked = classifier(files, top=1)
  return np.mean([str(r[0].label) == p.parent.name for r, p in zip(ranked, files, strict=True)])


@pytest.mark.parametrize('num_classes', [None, 5])
def test_classes_are_matched_by_name_in_evaluation(named, folder, tmp_path, num_classes):
  config = on_folder(digits.get_config(), folder)
  config.model.num_classes = num_classes
  found = evaluate.evaluate_file(config, named)['top1']
  assert found == pytest.approx(logits_of_test_pictures(named, folder, '56789'))
  some = tmp_path / 'some'
  for part in ('train', 'test'):
    for digit in '69':
      shutil.copytree(folder / part / digit, some / part / digit)
  config.data.dir = str(some)
  found = evaluate.evaluate_file(config, named)
  assert found['top1'] == pytest.approx(logits_of_test_pictures(named, folder, '69'))
  assert found['count'] == 24
  (some / 'train/9').rename(some / 'train/nine')
  (some / 'test/9').rename(some / 'test/nine')
  with pytest.raises(ConfigError, match=r"class 'nine', .* does not know.*'8', '6', '9', '5', '7'"):
    evaluate.evaluate_file(config, named)


def test_a_kept_head_is_put_into_the_order_of_the_folders_classes(named, make_config):
  config = make_config(new_head=False)
  config.model.pretrained = str(named)
  run = settings.read(config)
  assert run.info.class_names == tuple('56789')
  loaded, _ = initial_weights.load(str(named))
  fresh = {**loaded, HEAD: {'w': np.zeros((32, 5), 'f4'), 'b': np.zeros(5, 'f4')}}
  head = initial_weights.start_from(
    str(named), fresh, {}, new_head=False, class_names=run.info.class_names, spec=run.spec
  )[0][HEAD]
  np.testing.assert_array_equal(head['b'], [3, 1, 4, 0, 2])  # of 5, 6, 7, 8, 9 in `named`
  np.testing.assert_array_equal(head['w'], loaded[HEAD]['w'][:, [3, 1, 4, 0, 2]])
  with pytest.raises(ConfigError, match=r"class '4', .* does not know.*finetune.new_head=True"):
    initial_weights.start_from(
      str(named), fresh, {}, new_head=False, class_names=tuple('45678'), spec=run.spec
    )


def test_weights_whose_network_has_a_name_of_its_own_are_loaded(trunk, tmp_path):
  params, metadata = weights.load(trunk)
  own = {module.replace('NFNet', 'outer/~/MyNet', 1): x for module, x in params.items()}
  weights.save(tmp_path / 'own.safetensors', own, spec=metadata['spec'])
  loaded, _ = initial_weights.load(str(tmp_path / 'own.safetensors'))
  assert set(loaded) == set(params)
  weights.save(tmp_path / 'bare.safetensors', own)  # the run's model says what it is
  loaded, _ = initial_weights.load(str(tmp_path / 'bare.safetensors'), SPEC)
  assert set(loaded) == set(params)


def test_weights_without_a_classifier_say_so(trunk, tmp_path):
  params, metadata = weights.load(trunk)
  bare = {module: x for module, x in params.items() if module != HEAD}
  path = str(tmp_path / 'bare.safetensors')
  weights.save(path, bare, spec=metadata['spec'])
  with pytest.raises(
    ConfigError, match='bare.safetensors has no classifier: set finetune.new_head'
  ):
    initial_weights.start_from(path, params, {}, new_head=False)
  loaded, _ = initial_weights.start_from(path, params, {}, new_head=True)
  assert set(loaded) == set(params)
  with pytest.raises(ConfigError, match='bare.safetensors has no classifier'):
    evaluate.evaluate_file(digits.get_config(), path)


def copy_of(folder, place):
  shutil.copytree(folder, place)
  return place


def test_a_finished_run_keeps_its_results_when_its_data_changed(make_config, folder, tmp_path):
  pictures = copy_of(folder, tmp_path / 'pictures')
  config = make_config()
  config.data.dir, config.num_epochs, config.optimizer.sam_rho = str(pictures), 0.5, 0.0
  train.train(config, tmp_path / 'run')
  left = {p: p.read_bytes() for p in (tmp_path / 'run').glob('*.*')}
  for part in ('train', 'test'):
    (pictures / part / '7').rename(pictures / part / 'seven')
  with pytest.raises(CheckpointError, match="without the class '7'; with the new class 'seven'"):
    train.train(config, tmp_path / 'run')
  assert {p: p.read_bytes() for p in (tmp_path / 'run').glob('*.*')} == left
  for part in ('train', 'test'):
    (pictures / part / 'seven').rename(pictures / part / '7')
  config.data.dir = str(pictures.rename(tmp_path / 'moved'))
  again = train.train(config, tmp_path / 'run')  # its report, from its last checkpoint
  assert again['steps'] == 1
  # Of before the data were written down, and of another number of classes.
  (tmp_path / 'run/data.json').unlink()
  copy_of(tmp_path / 'moved/train/7', tmp_path / 'moved/train/ten')
  with pytest.raises(CheckpointError, match=r'linear/b has the shape \(5,\) there and \(6,\) in'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run/data.json').exists()


def test_a_run_that_cannot_take_a_step_leaves_the_directory_to_the_next(
  make_config, tmp_path, monkeypatch
):
  config = make_config()
  config.num_epochs, config.optimizer.sam_rho = 0.5, 0.0

  def refuse(*_):
    raise ValueError('a field that no step can use')

  with monkeypatch.context() as patch:
    patch.setattr(train.steps, 'make_train_step', lambda *_: refuse)
    with pytest.raises(ValueError, match='no step can use'):
      train.train(config, tmp_path)
  config.label_smoothing = 0.05
  assert train.train(config, tmp_path)['steps'] == 1
  config.label_smoothing = 0.1
  with pytest.raises(CheckpointError, match=r'another config \(label_smoothing: 0.05 -> 0.1\)'):
    train.train(config, tmp_path)


def test_a_second_start_leaves_the_first_alone(make_config, tmp_path):
  config = make_config()
  run = settings.read(config)
  owned = work_directory.WorkDirectory(tmp_path, run.config, run.data, run.info.identity)
  (tmp_path / 'checkpoints/7.orbax-checkpoint-tmp').mkdir(parents=True)  # being written
  (tmp_path / 'config.json').write_text(json.dumps(run.config))
  with owned.opened():
    for probe in (False, True):
      config.finetune.linear_probe = probe
      (tmp_path / 'config.json').write_text(json.dumps(settings.read(config).config))
      with pytest.raises(CheckpointError, match=f'a run is at work in .*process {os.getpid()} on'):
        train.train(config, tmp_path)
  assert (tmp_path / 'checkpoints/7.orbax-checkpoint-tmp').exists()


def test_an_unreadable_test_set_ends_a_run_before_it_starts(make_config, folder, tmp_path):
  pictures = copy_of(folder, tmp_path / 'pictures')
  for picture in (pictures / 'test').rglob('*.png'):
    picture.write_bytes(b'')
  config = make_config()
  config.data.dir, config.data.max_corrupt_fraction = str(pictures), 1.0
  with pytest.raises(DataError, match='none of the 60 test pictures can be read'):
    train.train(config, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_features_are_computed_again_when_the_folder_was_packed_again(
  make_config, folder, tmp_path, capsys
):
  pictures, packed = copy_of(folder, tmp_path / 'pictures'), tmp_path / 'packed'
  config = make_config(linear_probe=True)
  config.data.dir = str(packed)
  packed_folder.pack(str(pictures), str(packed))
  before = train.train(config, tmp_path / 'run')
  for picture in pictures.rglob('*.png'):  # other pictures of the same names
    pixels = np.array(PIL.Image.open(picture))
    PIL.Image.fromarray(255 - pixels).save(picture)
  shutil.rmtree(packed)
  packed_folder.pack(str(pictures), str(packed))
  capsys.readouterr()
  after = train.train(config, tmp_path / 'run')
  assert 'Computing the features of 40 pictures' in capsys.readouterr().out
  assert after['loss'] != before['loss']


@pytest.mark.parametrize('names', ['3', '["a", 1]', '{"a": 0}', 'cat', '["a"]'])
def test_class_names_that_cannot_be_used_are_one_sentence(trunk, tmp_path, names):
  params, metadata = weights.load(trunk)
  path = tmp_path / 'odd.safetensors'
  weights.save(path, params, spec=metadata['spec'], metadata={'class_names': names})
  with pytest.raises(ConfigError, match='has 5 classes, but its class_names are no list of so'):
    initial_weights.places_of_classes(str(path), ('a', 'b'), 5)


def test_names_that_two_classes_share_are_used_only_where_it_does_not_matter(trunk, tmp_path):
  params, metadata = weights.load(trunk)
  path = tmp_path / 'cranes.safetensors'
  names = ['crane', 'cafe\u0301', 'crane', 'x', 'y']
  weights.save(path, params, spec=metadata['spec'], metadata={'class_names': json.dumps(names)})
  find = functools.partial(initial_weights.places_of_classes, str(path), num_logits=5)
  assert find(['crane', 'caf\xe9', 'crane', 'x', 'y']).tolist() == [0, 1, 2, 3, 4]
  assert find(['y', 'caf\xe9']).tolist() == [4, 1]
  with pytest.raises(ConfigError, match="class 'crane', .* does not know by one name of its 5"):
    find(['x', 'crane'])
