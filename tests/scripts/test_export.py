"""scripts/export.py: files for other programs, of networks with and without batch normalisation."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

import nfnets
from nfnets import baselines, deploy, weights, zoo
from nfnets.preprocessing import Preprocessing

RESNET = baselines.ResNetSpec(depth=(1,), width=(16,), stride=(1,), stem=((3, 2, 8),), test_size=24)


@pytest.fixture(scope='module')
def resnet_file(tmp_path_factory):
  params = {
    module: {n: np.full(a.shape, 0.3, a.dtype) for n, a in entries.items()}
    for module, entries in zoo.parameter_shapes(RESNET, 3).items()
  }
  path = tmp_path_factory.mktemp('weights') / 'resnet.safetensors'
  weights.save(path, params, spec=RESNET.to_dict())
  return path


@pytest.fixture
def export(load_script, monkeypatch, capsys):
  """(*arguments) -> exit code, standard output, standard error."""
  main = load_script('export').main

  def run(*arguments):
    monkeypatch.setattr('sys.argv', ['export.py', *map(str, arguments)])
    return main(), *capsys.readouterr()

  return run


def test_a_network_with_batch_normalisation(export, resnet_file, tmp_path):
  images = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
  params, spec, _ = nfnets.load_pretrained(resnet_file)
  want = deploy.predictor(params, spec)(images)
  code, out, err = export(resnet_file, tmp_path / 'folded.safetensors')
  assert (code, err) == (0, '')
  assert 'parameters as safetensors in' in out
  *before, _ = out.splitlines()  # what takes so long
  assert before == [
    f'Reading {resnet_file}.',
    'Folding resnet into plain convolutions.',
    'Writing resnet as safetensors: seconds for a small network, minutes for a large one.',
  ]
  params, spec, _ = nfnets.load_pretrained(tmp_path / 'folded.safetensors')
  assert spec.folded
  np.testing.assert_allclose(deploy.predictor(params, spec)(images), want, rtol=1e-5)
  code, _, _ = export(resnet_file, tmp_path / 'net.stablehlo', '--no-fold')
  assert code == 0
  np.testing.assert_allclose(deploy.load_stablehlo(tmp_path / 'net.stablehlo')(images), want, 1e-5)


def test_weights_without_a_classifier_give_no_labels(export, resnet_file, tmp_path):
  params, metadata = weights.load(resnet_file)
  del params['BN_ResNet/~/linear']
  weights.save(tmp_path / 'trunk.safetensors', params, spec=metadata['spec'])
  code, _, err = export(tmp_path / 'trunk.safetensors', tmp_path / 'net.stablehlo')
  assert code == 1
  assert 'no classifier (BN_ResNet/~/linear with w and b)' in err
  assert not (tmp_path / 'net.stablehlo').exists()


def test_class_names_and_preparation_stay_with_the_weights(export, resnet_file, tmp_path):
  params, metadata = weights.load(resnet_file)
  preprocessing = Preprocessing(24, 'center', 0.9, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  said = {'class_names': '["a", "b", "c"]', 'preprocessing': preprocessing.to_json()}
  weights.save(tmp_path / 'run.safetensors', params, spec=metadata['spec'], metadata=said)
  code, out, _ = export(tmp_path / 'run.safetensors', tmp_path / 'folded.SafeTensors')
  assert code == 0
  assert 'Pictures are to be prepared so: 24 px, center, 90.0% of the side' in out
  assert weights.read_metadata(tmp_path / 'folded.SafeTensors').items() >= said.items()
  onnx = pytest.importorskip('onnx')
  code, out, _ = export(tmp_path / 'run.safetensors', tmp_path / 'net.onnx')
  assert code == 0
  assert 'parameters as onnx in' in out
  kept = {entry.key: entry.value for entry in onnx.load(tmp_path / 'net.onnx').metadata_props}
  assert kept.items() >= said.items()


def test_eight_bits(export, resnet_file, tmp_path):
  onnxruntime = pytest.importorskip('onnxruntime')
  params, metadata = weights.load(resnet_file)
  preprocessing = Preprocessing(20, 'resize')
  said = {'class_names': '["a", "b", "c"]', 'preprocessing': preprocessing.to_json()}
  weights.save(tmp_path / 'run.safetensors', params, spec=metadata['spec'], metadata=said)
  (tmp_path / 'pictures').mkdir()
  for i in range(3):
    pixels = np.random.default_rng(i).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'pictures' / f'{i}.png')
  options = '--int8', '--calibration', tmp_path / 'pictures'
  code, out, err = export(tmp_path / 'run.safetensors', tmp_path / 'net.onnx', *options)
  assert (code, err) == (0, '')
  assert '100.0% of 3 pictures get the same class as in float32' in out
  session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'))
  assert session.get_inputs()[0].shape == ['N', 20, 20, 3]
  assert session.get_modelmeta().custom_metadata_map.items() >= said.items()
  code, _, err = export(tmp_path / 'run.safetensors', tmp_path / 'net.stablehlo', *options)
  assert code == 1
  assert '--int8 writes ONNX files, not stablehlo' in err
  with pytest.raises(SystemExit):
    export(tmp_path / 'run.safetensors', tmp_path / 'net.onnx', '--int8')


@pytest.mark.slow
def test_a_file_for_litert(export, resnet_file, tmp_path):
  tf = pytest.importorskip('tensorflow')
  code, out, err = export(resnet_file, tmp_path / 'net.tflite')
  assert code == 0, err
  assert 'parameters as tflite in' in out
  images = np.random.default_rng(0).normal(size=(1, 24, 24, 3)).astype(np.float32)
  params, spec, _ = nfnets.load_pretrained(resnet_file)
  want = deploy.predictor(params, spec)(images)
  interpreter = tf.lite.Interpreter(str(tmp_path / 'net.tflite'))
  interpreter.allocate_tensors()
  interpreter.set_tensor(interpreter.get_input_details()[0]['index'], images)
  interpreter.invoke()
  got = interpreter.get_tensor(interpreter.get_output_details()[0]['index'])
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_an_unknown_suffix_is_refused(export, resnet_file, tmp_path):
  code, _, err = export(resnet_file, tmp_path / 'net.pb')
  assert code == 1
  assert 'ends in .pb, which stands for no format: use one of .safetensors' in err
  assert not list(tmp_path.iterdir())


def test_the_weights_are_never_written_over(export, resnet_file, tmp_path):
  before = resnet_file.read_bytes()
  (tmp_path / 'link.safetensors').symlink_to(resnet_file)
  for out in (resnet_file, tmp_path / 'link.safetensors'):
    code, _, err = export(resnet_file, out)
    assert code == 1
    assert f'OUT={out} would write over {resnet_file}, which' in err
  mine = tmp_path / 'mine'
  mine.write_bytes(before)
  code, _, err = export(mine, mine)  # by its suffix a SavedModel
  assert code == 1
  assert 'is a file, and a SavedModel is a folder' in err
  assert resnet_file.read_bytes() == mine.read_bytes() == before


@pytest.mark.parametrize(
  ('out', 'sentence'),
  [
    ('missing/net.onnx', 'there is no folder'),
    ('net.onnx', 'onnx needs the package onnx: '),
    ('folder', 'saved_model needs the package tensorflow: '),
  ],
)
def test_places_and_packages_are_looked_at_before_the_weights(
  export, tmp_path, monkeypatch, out, sentence
):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  code, _, err = export(tmp_path / 'no.safetensors', tmp_path / out)
  assert code == 1
  assert sentence in err
  assert not list(tmp_path.iterdir())
