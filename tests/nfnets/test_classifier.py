"""Pictures in, labels out."""

import concurrent.futures
import io
import os
import pickle
import sys

import cv2
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

import nfnets
from nfnets import baselines, images, inference, labels, weights
from nfnets import classifier as classifiers
from nfnets.preprocessing import Preprocessing

SPEC = nfnets.ModelSpec(
  width=(16, 32),
  depth=(1, 1),
  stride=(1, 2),
  group_width=8,
  two_convs=False,
  se_ratio=0,
  stem=((3, 2, 8),),
  test_size=32,
)
NAMES = ('ant', 'bee', 'cat', 'dog', 'eel', 'fox', 'gnu')


def network(batch):
  return nfnets.create_model(SPEC, len(NAMES))(batch, is_training=False)


@pytest.fixture(scope='module')
def params(recipe_params):
  return recipe_params(network, jnp.zeros((1, 32, 32, 3)))


@pytest.fixture(scope='module')
def reference(params):
  """Normalised images [1, 32, 32, 3] -> maps and outputs, without a Classifier."""

  def run(batch):
    model = nfnets.create_model(SPEC, len(NAMES))
    return {**model.features(batch), **model(batch, is_training=False)}

  return jax.jit(lambda batch: hk.transform(run).apply(params, None, batch))


@pytest.fixture(scope='module', params=['jax', 'onnx'])
def classifier(params, request):
  return nfnets.Classifier(params, SPEC, NAMES, batch_size=4, runtime=request.param)


@pytest.fixture(scope='module')
def jpeg(golden):
  return golden('preprocess')['jpeg'].tobytes()


@pytest.fixture(scope='module')
def pictures():
  rng = np.random.default_rng(0)
  return [rng.integers(0, 256, (20 + 7 * i, 50 - 3 * i, 3), np.uint8) for i in range(6)]


def assert_same(got, want, tolerance=1e-6):
  assert [p.index for p in got] == [p.index for p in want]
  np.testing.assert_allclose(
    [p.probability for p in got], [p.probability for p in want], rtol=tolerance, atol=tolerance
  )


def test_imagenet_names():
  names = labels.imagenet()
  anchors = {
    0: 'tench',
    1: 'goldfish',
    134: 'crane (bird)',
    207: 'golden retriever',
    281: 'tabby cat',
    340: 'zebra',
    517: 'crane (machine)',
    970: 'alp',
    985: 'daisy',
    999: 'toilet tissue',
  }
  assert {index: names[index] for index in anchors} == anchors
  assert len({name.lower() for name in names}) == len(names) == 1000
  assert all(name == name.strip() and name for name in names)


def test_labels_are_the_networks_softmax(classifier, reference, jpeg):
  logits = reference(inference.preprocess(jpeg, 32)[None])['logits'][0]
  probabilities = np.asarray(jax.nn.softmax(logits))
  predictions = classifier(jpeg, top=len(NAMES))
  assert [p.index for p in predictions] == list(np.argsort(-probabilities))
  for label, probability, index in predictions:
    assert label == NAMES[index]
    assert probability == pytest.approx(probabilities[index], rel=1e-4)
  assert sum(p.probability for p in predictions) == pytest.approx(1)
  assert classifier(jpeg, top=2) == predictions[:2]
  assert classifier(jpeg, top=99) == predictions


def test_what_counts_as_a_picture(classifier, jpeg, tmp_path):
  path = tmp_path / 'picture.jpg'
  path.write_bytes(jpeg)
  array = images.decode(jpeg)
  expected = classifier(array)
  for picture in (path, str(path), jpeg, memoryview(jpeg), array.astype(np.float32)):
    assert_same(classifier(picture), expected)
  for picture in (io.BytesIO(jpeg), jnp.asarray(array)):
    assert_same(classifier(picture), expected)
  with path.open('rb') as file:
    assert_same(classifier(file), expected)
  assert_same(classifier(PIL.Image.fromarray(array)), expected)
  assert_same(classifier([path])[0], expected)
  assert_same(classifier(array[None])[0], expected)


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGBA', 'CMYK', 'HSV', 'YCbCr', 'I;16'])
def test_any_mode_becomes_rgb(mode, pictures):
  color = PIL.Image.fromarray(pictures[0])
  if mode == 'I;16':
    grey = np.asarray(color.convert('L')).astype(np.uint16) * 257
    picture = PIL.Image.fromarray(grey)
    np.testing.assert_array_equal(inference.read_picture(grey), inference.read_picture(picture))
  else:
    picture = color.convert('L').convert('LA') if mode == 'LA' else color.convert(mode)
  assert picture.mode == mode
  array = inference.read_picture(picture)
  assert array.dtype == np.uint8
  expected = color.convert('L' if mode == 'I;16' else mode).convert('RGB')
  np.testing.assert_array_equal(array, np.asarray(expected))


def test_grey_bool_and_alpha_arrays(pictures):
  grey = pictures[0][..., 0]
  np.testing.assert_array_equal(inference.read_picture(grey), np.stack([grey] * 3, axis=-1))
  np.testing.assert_array_equal(
    inference.read_picture(grey[..., None]), np.stack([grey] * 3, axis=-1)
  )
  assert set(np.unique(inference.read_picture(grey > 99))) == {0, 255}
  alpha = np.concatenate([pictures[0], grey[..., None]], axis=-1)
  np.testing.assert_array_equal(inference.read_picture(alpha), pictures[0])


def test_files_and_pillow_images_are_turned_upright(pictures):
  exif = PIL.Image.Exif()
  exif[0x0112] = 6  # the stored first row is the right-hand side
  file = io.BytesIO()
  PIL.Image.fromarray(pictures[0]).save(file, 'PNG', exif=exif)
  expected = pictures[0].swapaxes(0, 1)[:, ::-1]
  np.testing.assert_array_equal(inference.read_picture(file.getvalue()), expected)
  np.testing.assert_array_equal(inference.read_picture(PIL.Image.open(file)), expected)


@pytest.mark.parametrize('kind', ['pipe', 'device', 'folder'])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
  path = tmp_path / 'picture.jpg'
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'folder':
    path.mkdir()
  else:
    path = '/dev/zero'
  with pytest.raises(OSError, match='not a file|Is a directory'):
    inference.read_picture(path)


@pytest.mark.parametrize(
  ('picture', 'sentence'),
  [
    (b'no picture', 'not a picture of a known format'),
    (b'', 'empty'),
    (np.zeros((4, 4, 2), np.uint8), r'got \(4, 4, 2\)'),
    (np.zeros((0, 4, 3), np.uint8), r'got \(0, 4, 3\)'),
    (np.zeros((4, 4, 3), np.int64), 'got int64'),
    (np.full((4, 4, 3), 0.5), 'multiply them by 255'),
    (np.full((4, 4, 3), np.nan), 'not finite'),
    (None, r'got \(\)'),
    (np.zeros((3, 8, 9), np.uint8), r'got \(3, 8, 9\): move the channels to the end'),
    (io.StringIO('text'), 'open as text: open it with open'),
    (PIL.Image.new('F', (4, 4)), "mode 'F'"),
  ],
)
def test_what_is_no_picture(classifier, picture, sentence):
  with pytest.raises(ValueError, match=sentence):
    classifier(picture)


def test_a_bad_picture_in_a_list_is_named(classifier, pictures, tmp_path):
  with pytest.raises(ValueError, match='picture 1 of the list'):
    classifier([pictures[0], b'no picture'])
  path = tmp_path / 'bad.png'
  path.write_bytes(b'no picture')
  with pytest.raises(ValueError, match='bad.png: '):
    classifier([pictures[0], path])
  with pytest.raises(FileNotFoundError, match='missing.png'):
    classifier(tmp_path / 'missing.png')


def test_lists_agree_with_single_pictures_and_compile_once(params, pictures, monkeypatch):
  classifier = nfnets.Classifier(params, SPEC, NAMES, batch_size=4, runtime='jax')
  traced = []
  create = nfnets.create_model
  monkeypatch.setattr(classifiers.zoo, 'create_model', lambda *a: traced.append(1) or create(*a))
  assert classifier([]) == []
  ranked = classifier(pictures) + classifier(pictures[:1]) + classifier(pictures[:3])
  assert len(ranked) == 10
  assert len(traced) == 1
  for predictions, picture in zip(ranked, pictures + pictures[:1] + pictures[:3], strict=True):
    assert_same(predictions, classifier(picture), tolerance=1e-4)
  assert len(traced) == 2


def test_bfloat16_is_near(params, classifier, pictures):
  small = nfnets.Classifier(params, SPEC, NAMES, dtype='bfloat16')
  near, exact = (c.features(pictures, ['logits'])['logits'] for c in (small, classifier))
  assert near.dtype == np.float32
  assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_features(classifier, reference, pictures):
  features = classifier.features(pictures)
  assert {name: array.shape for name, array in features.items()} == {
    'logits': (6, 7),
    'pool': (6, 64),
    'stem': (6, 16, 16, 8),
    'stage0': (6, 16, 16, 16),
    'stage1': (6, 8, 8, 32),
  }
  expected = reference(inference.preprocess(pictures[5], 32)[None])
  assert sorted(expected) == sorted(classifier.feature_names)
  for name, array in expected.items():
    np.testing.assert_allclose(features[name][5], array[0], rtol=1e-4, atol=1e-4)
  one = classifier.features(pictures[2], ['pool'])
  np.testing.assert_allclose(one['pool'][0], features['pool'][2], rtol=1e-4, atol=1e-5)
  assert [p.index for p in classifier.rank(features['logits'][0])] == [
    p.index for p in classifier(pictures[0])
  ]


@pytest.mark.parametrize(
  ('names', 'sentence'), [(['stage2'], "no feature 'stage2'"), ([], 'of no name')]
)
def test_unknown_features(classifier, pictures, names, sentence):
  with pytest.raises(ValueError, match=sentence):
    classifier.features(pictures, names)


def test_text_is_no_list_of_names(params, classifier, pictures):
  with pytest.raises(ValueError, match=r"such as \['pool'\], got the text 'pool'"):
    classifier.features(pictures, 'pool')
  with pytest.raises(
    ValueError, match="class_names must be a list of names, got the text 'abcdefg'"
  ):
    nfnets.Classifier(params, SPEC, 'abcdefg')


def test_mode(params, reference, jpeg):
  classifier = nfnets.Classifier(params, SPEC, NAMES, mode='crop_resize', batch_size=1)
  expected = reference(inference.preprocess(jpeg, 32, 'crop_resize')[None])['logits'][0]
  assert [p.index for p in classifier([jpeg], top=7)[0]] == list(np.argsort(-expected))


def test_size(params, jpeg):
  classifier = nfnets.Classifier(params, SPEC, NAMES, size=48)
  assert classifier.features(jpeg, ['stem'])['stem'].shape == (1, 24, 24, 8)


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    ({'mode': 'border'}, "one of resize_crop_32, .* got 'border'"),
    ({'dtype': 'float16'}, "float32, bfloat16, got 'float16'"),
    ({'size': 0}, 'size must be a whole number of pixels from 1 to 8,192, got 0'),
    ({'runtime': 'tpu'}, "runtime must be one of jax, onnx, got 'tpu'"),
    ({'runtime': 'onnx', 'dtype': 'bfloat16'}, "computes in float32, not in bfloat16: use 'jax'"),
    ({'batch_size': 0}, 'batch_size must be at least 1'),
    ({'class_names': ('a', 'b')}, '2 class names were given but the network has 7'),
  ],
)
def test_options_that_do_not_exist(params, options, sentence):
  with pytest.raises(ValueError, match=sentence):
    nfnets.Classifier(params, SPEC, **options)


def test_weights_of_another_network(params):
  with pytest.raises(ValueError, match='do not fit the model'):
    nfnets.Classifier(params, SPEC.replace(depth=(1, 2)))
  with pytest.raises(ValueError, match='pass the spec that they were saved with'):
    nfnets.Classifier(params, nfnets.zoo.get_spec('NF-ResNet-50'))


def test_logits_that_are_not_finite(classifier):
  with pytest.raises(ValueError, match='not finite: its weights are damaged'):
    classifier.rank(np.full(len(NAMES), np.nan))


def test_a_saved_file_alone_labels(params, pictures, tmp_path):
  path = tmp_path / 'mine.safetensors'
  preprocessing = Preprocessing(40, 'center', 0.9, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  classifier = nfnets.Classifier(params, SPEC, NAMES, preprocessing=preprocessing, batch_size=4)
  classifier.save(path)
  loaded = nfnets.Classifier.from_pretrained(path, batch_size=4)
  assert loaded.class_names == NAMES
  assert loaded.preprocessing == preprocessing
  assert loaded(pictures) == classifier(pictures)
  other = nfnets.Classifier.from_pretrained(str(path), list('ABCDEFG'))
  assert other.class_names == tuple('ABCDEFG')
  assert nfnets.Classifier.from_pretrained(path, mode='resize', size=24).preprocessing == (
    Preprocessing(24, 'resize', 0.9, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  )
  weights.save(path, params, spec=SPEC)
  bare = nfnets.Classifier.from_pretrained(path, mode=None)
  assert bare.class_names[6] == 'class 6'
  assert bare.preprocessing == Preprocessing(32)


@pytest.mark.parametrize(
  ('metadata', 'sentence'),
  [
    ({'class_names': '{"a": 1}'}, 'class_names are not a JSON list'),
    ({'class_names': '["a"'}, 'is damaged: its class_names'),
    ({'class_names': '["a"]'}, 'is damaged: it has 7 classes and names 1'),
    ({'preprocessing': '{"size": 32, "mode": "border"}'}, "got 'border'"),
    ({'preprocessing': '{"size": 0}'}, 'size must be a whole number'),
    ({'preprocessing': '{"size": 32, "crop_share": 0}'}, 'crop_share must be above 0'),
    ({'preprocessing': '{"size": 32, "mean": [1, 2]}'}, 'mean must be three numbers'),
    ({'preprocessing': '{"size": 32, "stddev": [1, 0, 1]}'}, 'stddev must be above 0'),
    ({'preprocessing': '{"size": 32, "mean": [NaN, 0, 0]}'}, 'mean must be three numbers'),
    ({'preprocessing': '[32]'}, 'is damaged: its preprocessing'),
    ({'preprocessing': '{"side": 32}'}, 'is damaged: its preprocessing'),
    ({'preprocessing': 'large'}, 'is damaged: its preprocessing'),
  ],
)
def test_damaged_metadata(params, tmp_path, metadata, sentence):
  path = tmp_path / 'weights.safetensors'
  weights.save(path, params, spec=SPEC, metadata=metadata)
  with pytest.raises(ValueError, match=sentence):
    nfnets.Classifier.from_pretrained(path)


def test_runtimes_agree(params, pictures):
  by_runtime = {
    name: nfnets.Classifier(params, SPEC, NAMES, batch_size=4, runtime=name).features(
      pictures, ['logits', 'pool']
    )
    for name in ('jax', 'onnx')
  }
  for name, want in by_runtime['jax'].items():
    scale = np.abs(want).max()
    np.testing.assert_allclose(by_runtime['onnx'][name], want, atol=1e-5 * scale, rtol=0)


def test_onnx_runtime_alone_gives_logits_and_pooled_features(params, pictures):
  classifier = nfnets.Classifier(params, SPEC, NAMES, runtime='onnx')
  classifier.features(pictures, ['logits', 'pool'])
  assert '_xla' not in vars(classifier)  # no second copy of the weights
  assert classifier.features(pictures[:1], ['stem'])['stem'].shape == (1, 16, 16, 8)
  assert '_xla' in vars(classifier)


def test_the_runtime_is_that_of_the_machine(params, monkeypatch):
  assert nfnets.Classifier(params, SPEC).runtime == 'onnx'  # what the tests install
  assert nfnets.Classifier(params, SPEC, dtype='bfloat16').runtime == 'jax'
  with monkeypatch.context() as patch:
    patch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert nfnets.Classifier(params, SPEC).runtime == 'jax'
  monkeypatch.setitem(sys.modules, 'onnxruntime', None)  # as if it were not installed
  assert nfnets.Classifier(params, SPEC).runtime == 'jax'
  with pytest.raises(ImportError, match=r'needs onnxruntime: .*\[serve\]'):
    nfnets.Classifier(params, SPEC, runtime='onnx')


def test_it_says_what_it_is(params):
  named = nfnets.Classifier(params, SPEC, NAMES, name='mine', runtime='jax')
  text = "Classifier('mine', 7 classes, 32 px, resize_crop_32, float32, runtime='jax')"
  assert repr(named) == text
  assert nfnets.Classifier(params, SPEC).name == 'NFNet'


def test_it_can_be_pickled(classifier, pictures):
  again = pickle.loads(pickle.dumps(classifier))
  assert repr(again) == repr(classifier)
  assert again(pictures) == classifier(pictures)


def test_threads_share_it(params, pictures):
  classifier = nfnets.Classifier(params, SPEC, NAMES, runtime='jax')
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    together = list(pool.map(classifier, pictures * 4))
  assert together == [classifier(picture) for picture in pictures] * 4


def test_each_names_pictures_and_goes_on_after_a_bad_one(classifier, pictures, tmp_path):
  (tmp_path / 'more').mkdir()
  for place, picture in zip(('b.png', 'more/c.png', 'a.png'), pictures, strict=False):
    PIL.Image.fromarray(picture).save(tmp_path / place)
  (tmp_path / 'bad.png').write_bytes(b'no picture')
  (tmp_path / 'notes.txt').write_text('no picture either')
  found = list(classifier.each(tmp_path))
  names = [str(tmp_path / name) for name in ('a.png', 'b.png', 'bad.png', 'more/c.png')]
  assert [name for name, _, _ in found] == names
  assert [bool(predictions) for _, predictions, _ in found] == [True, True, False, True]
  assert 'not a picture of a known format' in found[2].problem
  for place, picture in ((0, pictures[2]), (1, pictures[0]), (3, pictures[1])):
    assert_same(found[place].predictions, classifier(picture), tolerance=1e-4)
    assert not found[place].problem
  assert [r.name for r in classifier.each(f'{tmp_path}/*.png')] == names[:3]
  assert [r.name for r in classifier.each(iter(pictures[:2]))] == ['picture 0', 'picture 1']
  assert [r.name for r in classifier.each(names[0])] == names[:1]
  with pytest.raises(FileNotFoundError, match=r'none\*: there is no such file'):
    list(classifier.each(f'{tmp_path}/none*'))


def test_each_frame_of_a_video(classifier, tmp_path):
  path = str(tmp_path / 'film.avi')
  writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*'MJPG'), 10, (48, 32))
  for i in range(6):
    writer.write(np.full((32, 48, 3), 40 * i, np.uint8))
  writer.release()
  found = list(classifier.each(path))
  assert [name for name, _, _ in found] == [f'{path}, frame {i}' for i in range(6)]
  assert all(len(predictions) == 5 for _, predictions, _ in found)
  (tmp_path / 'no.mp4').write_bytes(b'no video')
  with pytest.raises(OSError, match='no.mp4 cannot be read as a video'):
    list(classifier.each(tmp_path / 'no.mp4'))


def test_a_path_of_several_pictures_is_for_each(classifier, tmp_path):
  for path in (tmp_path, f'{tmp_path}/*.png'):
    with pytest.raises(ValueError, match=r'several pictures: classifier.each\('):
      classifier(path)


def test_generators(classifier, pictures):
  assert classifier(picture for picture in pictures) == classifier(pictures)
  assert classifier(iter(())) == []


def test_a_thousand_classes_are_imagenets(recipe_params):
  params = recipe_params(
    lambda x: nfnets.create_model(SPEC, 1000)(x, False), jnp.zeros((1, 32, 32, 3))
  )
  assert nfnets.Classifier(params, SPEC).class_names == labels.imagenet()


def test_a_baseline_with_running_statistics(pictures):
  spec = nfnets.zoo.get_spec('BN-ResNet-50').replace(
    depth=(1,), width=(16,), stride=(1,), stem=((3, 2, 8),), test_size=32
  )
  network = hk.transform_with_state(lambda x: nfnets.create_model(spec, 5)(x, False))
  batch = np.stack([inference.preprocess(picture, 32) for picture in pictures])
  rng = np.random.default_rng(0)
  params, state = jax.tree.map(
    lambda x: rng.uniform(0.5, 1.5, x.shape).astype(x.dtype),
    jax.eval_shape(network.init, jax.random.key(0), batch),
  )
  tree = baselines.join_state(params, state)
  features = nfnets.Classifier(tree, spec, batch_size=6).features(pictures)
  expected, _ = jax.jit(network.apply)(params, state, None, batch)
  np.testing.assert_allclose(features['logits'], expected['logits'], rtol=1e-4, atol=1e-5)
  assert sorted(features) == ['logits', 'pool', 'stage0', 'stem']
  with pytest.raises(ValueError, match='do not fit the model'):
    nfnets.Classifier(params, spec)
