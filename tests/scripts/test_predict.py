"""scripts/predict.py: pictures in, labels out."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

import nfnets


@pytest.fixture
def predict(load_script, weights_file, capsys):
  """(*arguments) -> exit code, standard output, standard error."""
  main = load_script('predict').main

  def run(*arguments):
    code = main(['--weights', str(weights_file), *map(str, arguments)])
    return code, *capsys.readouterr()

  return run


def refused(predict, capsys, *arguments):
  with pytest.raises(SystemExit) as error:
    predict(*arguments)
  assert error.value.code == 2
  return capsys.readouterr().err


def test_a_folder_as_text(predict, pictures):
  code, out, err = predict(pictures, '--top', 2)
  assert (code, err) == (0, f'{pictures}: skipped 1: 1 of another ending (notes.txt)\n')
  lines = out.splitlines()
  assert len(lines) == 6
  assert lines[0] == str(pictures / 'inner/two.png')
  assert lines[3] == str(pictures / 'one.jpg')
  assert lines[1].endswith(')')
  assert '%' in lines[1]


def test_json_equals_the_classifier(predict, pictures, weights_file):
  code, out, _ = predict(pictures / '*.jpg', pictures / 'inner' / 'two.png', '--json')
  assert code == 0
  results = [json.loads(line) for line in out.splitlines()]
  paths = [pictures / 'one.jpg', pictures / 'inner/two.png']
  assert [result['picture'] for result in results] == list(map(str, paths))
  ranked = nfnets.Classifier.from_pretrained(weights_file)(paths)
  for result, predictions in zip(results, ranked, strict=True):
    assert result['predictions'] == [p._asdict() for p in predictions]


def test_bad_pictures_are_named_and_the_others_done(predict, pictures):
  (pictures / 'broken.jpg').write_bytes(b'\xff\xd8\xff no picture')
  empty = pictures / 'empty'
  empty.mkdir()
  code, out, err = predict(pictures, 'missing.png', empty, '--json')
  assert code == 1
  results = {r['picture']: r for r in map(json.loads, out.splitlines())}
  assert sum('predictions' in result for result in results.values()) == 2
  assert 'header is corrupt' in results[str(pictures / 'broken.jpg')]['error']
  assert 'no such file' in results['missing.png']['error']
  assert 'no file in this folder ends in' in results[str(empty)]['error']
  assert err.endswith('3 of 5 could not be used.\n')
  assert f'{pictures / "broken.jpg"}: ' in err


def test_a_folder_follows_the_rules_of_training(predict, pictures):
  one = (pictures / 'one.jpg').read_bytes()
  for name in ('.hidden/a.jpg', '._one.jpg', '__MACOSX/one.jpg', 'x.heic', 'b.GIF', 'c.jfif'):
    (pictures / name).parent.mkdir(exist_ok=True)
    (pictures / name).write_bytes(one)
  (pictures / '.DS_Store').write_bytes(b'')
  os.mkfifo(pictures / 'pipe.jpg')
  os.symlink('/etc', pictures / 'out')
  code, out, err = predict(pictures, '--json')
  assert code == 0
  done = [json.loads(line)['picture'] for line in out.splitlines()]
  assert done == [str(pictures / name) for name in ('b.GIF', 'c.jfif', 'inner/two.png', 'one.jpg')]
  assert err == (
    f'{pictures}: skipped 6: 2 hidden (._one.jpg, .hidden), 1 whose link leads out of the folder '
    'or nowhere (out), 2 of another ending (notes.txt, x.heic), 1 that are not regular files '
    '(pipe.jpg)\n'
  )


def test_a_pipe_and_an_unreadable_file_are_named(predict, pictures):
  os.mkfifo(pictures / 'pipe.jpg')
  code, out, err = predict(pictures / 'pipe.jpg', pictures / 'one.jpg')
  assert code == 1
  assert f'{pictures / "pipe.jpg"}: it is a pipe' in err
  assert str(pictures / 'one.jpg') in out


def test_names_of_any_bytes(run_script, weights_file, pictures, tmp_path):
  name = os.path.join(os.fsencode(pictures), b'\xff\x1b[31m\n\xc3\xa9.png')
  os.rename(pictures / 'inner/two.png', name)
  more = ('--weights', weights_file, '--sheet', tmp_path / 'sheet.png', '--top', 1)
  features = ('--features', tmp_path / 'features.npz')
  done = run_script('predict', os.fsdecode(name), *more, *features)
  wrote = f'{tmp_path}/sheet.png shows the pictures.\n'
  said = f'The features are in {tmp_path}/features.npz.\n{wrote}'
  assert (done.returncode, done.stderr) == (0, said)
  assert done.stdout.splitlines()[0] == f'{pictures}/\\xff\\x1b[31m\\né.png'
  done = run_script('predict', os.fsdecode(name), *more, '--json')
  assert (done.returncode, done.stderr) == (0, wrote)
  assert os.fsencode(json.loads(done.stdout)['picture']) == name


def test_behind_head_it_ends_in_silence(weights_file, pictures):
  script = pathlib.Path(__file__).parents[2] / 'scripts/predict.py'
  command = [sys.executable, script, pictures / 'one.jpg', pictures / 'inner', '--batch_size', '1']
  with subprocess.Popen(
    [*command, '--weights', weights_file], stdout=subprocess.PIPE, stderr=subprocess.PIPE
  ) as process:
    process.stdout.close()  # as head does after its last line
    assert process.stderr.read() == b''
    assert process.wait(120) == 141


def test_a_picture_given_twice_is_done_once(predict, pictures):
  code, out, _ = predict(pictures / 'one.jpg', pictures / '*.jpg', '--json')
  assert code == 0
  assert len(out.splitlines()) == 1


def test_nothing_to_do(predict, tmp_path):
  code, out, err = predict(tmp_path / 'missing.png', '--sheet', tmp_path / 'sheet.png')
  assert (code, out) == (1, '')
  assert err.endswith('1 of 1 could not be used.\n')
  assert not (tmp_path / 'sheet.png').exists()


def test_no_weights_are_loaded_for_nothing(predict, tmp_path):
  code, _, err = predict(tmp_path / 'missing.png', '--weights', tmp_path / 'none.safetensors')
  assert code == 1
  assert 'none.safetensors' not in err


def test_features_and_sheet(predict, pictures, tmp_path):
  features, sheet = tmp_path / 'features.npz', tmp_path / 'sheet.png'
  arguments = ('--features', features, '--maps', '--sheet', sheet, '--batch_size', 2)
  code, _, err = predict(pictures / 'one.jpg', pictures / 'inner', *arguments)
  assert (code, err) == (0, f'The features are in {features}.\n{sheet} shows the pictures.\n')
  with np.load(features, allow_pickle=False) as arrays:
    assert arrays['pool'].shape == (2, 32)
    assert arrays['logits'].shape == (2, 3)
    assert arrays['stage0'].shape == (2, 12, 12, 16)
    assert [path.rpartition('/')[2] for path in arrays['paths']] == ['one.jpg', 'two.png']
    assert list(arrays['class_names']) == ['red', 'green', 'blue']
    pool = arrays['pool']
  image = np.asarray(PIL.Image.open(sheet).convert('RGB'))
  assert min(image.shape[:2]) > 200
  assert len(np.unique(image.reshape(-1, 3), axis=0)) > 1000  # the pictures are on it
  code, _, _ = predict(
    pictures / 'one.jpg', pictures / 'inner', '--features', tmp_path / 'pool.npy'
  )
  assert code == 0
  np.testing.assert_allclose(np.load(tmp_path / 'pool.npy'), pool, rtol=1e-4, atol=1e-5)


def test_names_that_matplotlib_might_take_for_formulas(load_script, tmp_path):
  script = load_script('predict')
  prediction = script.classifiers.Prediction('$x', 0.5, 0)
  image = np.zeros((8, 200, 3), np.uint8)
  result = script.Result(tmp_path / 'a$b_$c.png', image, [prediction])
  script.draw_sheet([result] * 7, tmp_path / 'sheet.pdf')
  assert (tmp_path / 'sheet.pdf').read_bytes().startswith(b'%PDF')


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['--features', 'x.txt'], 'must end in .npy or .npz'),
    (['--maps'], '--maps needs --features FILE.npz'),
    (['--sheet', 'missing/x.png'], 'there is no folder missing'),
    (['--sheet', 'x.doc'], '--sheet must end in'),
    (['--top', '0'], 'must be at least 1, got 0'),
    (['--dtype', 'float16'], 'invalid choice'),
  ],
)
def test_wrong_arguments(predict, pictures, capsys, arguments, sentence):
  assert sentence in refused(predict, capsys, pictures, *arguments)


@pytest.mark.parametrize(
  ('weights', 'sentence'),
  [('F9', "'F9' is neither the name of published weights nor a file"), (None, 'not begin as')],
)
def test_weights_that_are_none(run_script, pictures, weights, sentence):
  weights = weights or pictures / 'one.jpg'
  process = run_script('predict', pictures, '--weights', weights)
  assert process.returncode == 1
  assert process.stderr.startswith('Error: ')
  assert process.stderr.count('\n') == 1
  assert sentence in process.stderr
  assert process.stdout == ''


@pytest.mark.parametrize('flag', ['--sheet', '--features'])
def test_a_picture_is_never_written_over(predict, pictures, flag):
  path = pictures / ('one.jpg' if flag == '--sheet' else 'one.npy')
  if flag == '--features':
    (pictures / 'one.jpg').rename(path)
  before = path.read_bytes()
  code, out, err = predict(path, flag, path)
  assert (code, out) == (1, '')
  assert err.startswith(f'Error: {flag}={path} would write over {path}, which')
  assert path.read_bytes() == before


def test_weights_are_never_written_over(predict, weights_file, pictures, tmp_path, capsys):
  mine = tmp_path / 'mine.npy'
  mine.write_bytes(weights_file.read_bytes())
  with pytest.raises(SystemExit) as error:
    predict(pictures, '--weights', mine, '--features', mine)
  assert error.value.code == 2
  assert 'would write over' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('arguments', 'missing', 'sentence'),
  [
    (['--runtime', 'onnx'], 'onnxruntime', "the runtime 'onnx' needs onnxruntime: "),
    (['--sheet', 'sheet.png'], 'matplotlib.figure', '--sheet draws with matplotlib: '),
  ],
)
def test_packages_are_looked_for_before_the_weights(
  predict, pictures, monkeypatch, tmp_path, arguments, missing, sentence
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, missing, None)
  code, out, err = predict(pictures, '--weights', tmp_path / 'no.safetensors', *arguments)
  assert (code, out) == (1, '')
  assert err.startswith(f'Error: {sentence}')
