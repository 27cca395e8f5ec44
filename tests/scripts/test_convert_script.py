"""scripts/convert.py: every kind of weights file to the other."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import nfnets
from nfnets import weights, zoo

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
TIMM = GOLDEN / 'timm_test_nfnet.safetensors'
DEEPMIND = GOLDEN / 'deepmind_format_tiny_haiku.npz'


@pytest.fixture
def convert(load_script, capsys):
  """(*arguments) -> exit code, standard output, standard error."""
  main = load_script('convert').main

  def run(*arguments):
    code = main(list(map(str, arguments)))
    return code, *capsys.readouterr()

  return run


def test_timm_to_ours_and_back(convert, tmp_path):
  ours, back = tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors'
  code, out, err = convert(TIMM, ours, '--model', 'test_nfnet')
  assert (code, err) == (0, '')
  assert '(timm) -> ' in out
  assert '(ours, test_nfnet): 93 arrays, 383,080 parameters.' in out
  classifier = nfnets.Classifier.from_pretrained(ours)
  assert classifier.spec == zoo.get_spec('test_nfnet')
  code, out, _ = convert(ours, back)
  assert code == 0
  assert '(timm): 93 arrays' in out
  with safetensors.safe_open(back, framework='np') as file:
    assert file.metadata() == {'format': 'pt'}
  want, got = safetensors.numpy.load_file(TIMM), safetensors.numpy.load_file(back)
  assert sorted(got) == sorted(want)
  for name, array in want.items():
    np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-7)


@pytest.fixture
def tiny_release(monkeypatch):
  """Gives the model of the small file in DeepMind's layout a name; returns its parameters."""
  with np.load(GOLDEN / 'train.npz') as golden:
    config = json.loads(str(golden['config']))
  spec = nfnets.ModelSpec(width=config['width'], depth=config['depth'], group_width=config['gw'])
  load = weights.load_deepmind
  monkeypatch.setitem(zoo._MODELS, 'tiny', spec)
  monkeypatch.setitem(zoo._BY_LETTERS, 'tiny', 'tiny')
  monkeypatch.setattr(weights, 'load_deepmind', lambda path, name: load(path, name, 10))
  return load(DEEPMIND, spec, 10)


def test_deepmind_to_ours(convert, tiny_release, tmp_path):
  ours = tmp_path / 'ours.safetensors'
  code, out, err = convert(DEEPMIND, ours, '--model', 'tiny')
  assert (code, err) == (0, '')
  assert "(DeepMind's release) -> " in out
  params, metadata = weights.load(ours)
  assert nfnets.ModelSpec.from_dict(metadata['spec']) == zoo.get_spec('tiny')
  for module, entries in tiny_release.items():
    for name, array in entries.items():
      np.testing.assert_array_equal(params[module][name], array)
  # And on to timm, whose user is told of the GELU.
  code, out, _ = convert(ours, tmp_path / 'timm.safetensors')
  assert code == 0
  assert "act_layer='gelu_tanh'" in out


def test_a_file_that_does_not_name_its_model(convert, tmp_path):
  code, _, err = convert(TIMM, tmp_path / 'ours.safetensors')
  assert code == 1
  assert 'add --model NAME' in err
  code, _, err = convert(DEEPMIND, tmp_path / 'ours.safetensors')
  assert code == 1
  assert '5 blocks and 192 final channels' in err
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('source', [TIMM, DEEPMIND])
def test_weights_of_another_model(run_script, tmp_path, source):
  process = run_script('convert', source, tmp_path / 'x.safetensors', '--model', 'nfnet_l0')
  assert process.returncode == 1
  assert process.stderr.startswith('Error: ')
  assert process.stderr.count('\n') == 1
  assert not list(tmp_path.iterdir())


def test_what_is_no_weights_file(convert, tmp_path):
  source = tmp_path / 'source'
  source.write_bytes(b'no weights')
  code, _, err = convert(source, tmp_path / 'x.safetensors', '--model', 'F0')
  assert code == 1
  assert 'Nothing in it was run' in err


@pytest.mark.parametrize(
  ('data', 'sentence'),
  [
    (b'', 'an empty file: download it again'),
    (TIMM.read_bytes()[:-1], 'not a whole safetensors file'),
    (TIMM.read_bytes()[:-4] + b'\xff' * 4, 'NaN or infinite numbers in'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'were not downloaded'),
    (b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.', 'weights_only=True'),
  ],
)
def test_what_is_to_be_got_otherwise(convert, tmp_path, data, sentence):
  (tmp_path / 'model.pth').write_bytes(data)
  code, _, err = convert(tmp_path / 'model.pth', tmp_path / 'x.safetensors', '--model', 'F0')
  assert code == 1
  assert sentence in err
  assert err.count('\n') == 1


def test_state_dicts_of_wrappers_and_without_a_head(convert, tmp_path, caplog):
  state = safetensors.numpy.load_file(TIMM)
  wrapped = {f'_orig_mod.{k}': a for k, a in state.items() if not k.startswith('head.fc')}
  safetensors.numpy.save_file(wrapped, tmp_path / 'timm.safetensors')
  ours = tmp_path / 'ours.safetensors'
  code, out, _ = convert(tmp_path / 'timm.safetensors', ours, '--model', 'test_nfnet')
  assert code == 0
  assert '(ours, test_nfnet): 91 arrays' in out
  assert "prefix '_orig_mod.'" in caplog.text
  assert 'no classifier' in caplog.text
  code, out, _ = convert(ours, tmp_path / 'back.safetensors')
  assert '(timm): 91 arrays' in out


def test_a_network_that_timm_does_not_have(convert, tmp_path):
  spec = zoo.get_spec('test_nfnet')
  folded = spec.replace(conventions=dataclasses.replace(spec.conventions, folded=True))
  weights.save(tmp_path / 'w', {'m': {'w': np.ones(1)}}, spec=folded.to_dict())
  code, _, err = convert(tmp_path / 'w', tmp_path / 'x.safetensors')
  assert code == 1
  assert 'This network is folded' in err
  weights.save(
    tmp_path / 'w', {'m': {'w': np.ones(1)}}, spec=zoo.get_spec('BN-ResNet-50').to_dict()
  )
  code, _, err = convert(tmp_path / 'w', tmp_path / 'x.safetensors')
  assert code == 1
  assert 'BN_ResNet has batch normalisation' in err


def test_a_link_to_write_to_is_kept(convert, tmp_path):
  ours, link = tmp_path / 'ours.safetensors', tmp_path / 'link.safetensors'
  link.symlink_to(tmp_path / 'store.safetensors')
  convert(TIMM, ours, '--model', 'test_nfnet')
  code, _, _ = convert(ours, link)
  assert code == 0
  assert link.is_symlink()
  assert (tmp_path / 'store.safetensors').is_file()


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (['missing', 'x.safetensors'], 'there is no file missing'),
    ([TIMM, 'x.npz'], 'OUT must end in .safetensors'),
    ([TIMM, 'missing/x.safetensors'], 'there is no folder missing'),
    ([TIMM, TIMM], 'would write over'),
    ([TIMM, 'x.safetensors', '--model', 'F99'], "Unknown model 'F99'"),
  ],
)
def test_wrong_arguments(convert, capsys, arguments, sentence):
  before = TIMM.read_bytes()
  with pytest.raises(SystemExit) as error:
    convert(*arguments)
  assert error.value.code == 2
  assert sentence in capsys.readouterr().err
  assert TIMM.read_bytes() == before
