"""Loaded weights: whatever their network was called, and their classes by name."""

import functools
import json
import shutil

import numpy as np
import pytest
from small_finetuning import HEAD, SPEC, on_folder

import nfnets
from configs import digits
from experiments import evaluate
from experiments.runtime.errors import ConfigError
from experiments.training import initial_weights, settings
from nfnets import weights
from nfnets.preprocessing import Preprocessing


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


def test_pictures_are_prepared_as_the_weights_say(named, folder, tmp_path, capsys):
  params, metadata = weights.load(named)
  path = tmp_path / 'prepared.safetensors'
  preprocessing = Preprocessing(20, 'center', 0.8, (0.2, 0.9, 0.4), (0.1, 0.3, 0.2))
  names = json.loads(metadata['class_names'])
  weights.save(path, params, spec=metadata['spec'], class_names=names, preprocessing=preprocessing)
  config = on_folder(digits.get_config(), folder)
  for given, changes in (((), {}), (('eval_image_size', 'eval_mode'), {'mode': 'resize'})):
    config.data.eval_image_size = 24
    config.data.eval_mode = 'resize'
    size = 24 if given else None
    classifier = nfnets.Classifier.from_pretrained(path, size=size, **changes)
    assert classifier.preprocessing == preprocessing.replace(size=size, **changes)
    right = [
      classifier(picture, top=1)[0].label == digit
      for digit in '56789'
      for picture in sorted((folder / 'test' / digit).iterdir())
    ]
    found = evaluate.evaluate_file(config, path, given)
    assert found['top1'] == pytest.approx(np.mean(right))
    assert str(classifier.preprocessing) in capsys.readouterr().err
  # A run that starts from these weights gives them the pixels that they know.
  config = on_folder(digits.get_config(), folder)
  config.model.pretrained, config.model.variant = str(path), ''
  config.model.spec = {}
  chosen = settings.read(config).data
  assert (chosen.mean, chosen.stddev) == (preprocessing.mean, preprocessing.stddev)
  config.data.mean = (0.1, 0.1, 0.1)
  assert settings.read(config).data.mean == (0.1, 0.1, 0.1)


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
    ConfigError, match='bare.safetensors has no classifier: set --config.finetune.new_head'
  ):
    initial_weights.start_from(path, params, {}, new_head=False)
  loaded, _ = initial_weights.start_from(path, params, {}, new_head=True)
  assert set(loaded) == set(params)
  with pytest.raises(ConfigError, match='bare.safetensors has no classifier'):
    evaluate.evaluate_file(digits.get_config(), path)


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
