"""Trees survive the disk bit for bit; damaged files and trees that do not fit are refused."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from nfnets.weights import load, merge, save

GOLDEN = Path(__file__).parents[2] / 'golden'


@pytest.fixture(scope='module')
def tree():
  """The parameters of the published training run: a real NFNet tree, scalars included."""
  params = {}
  with np.load(GOLDEN / 'train.npz') as arrays:
    for key in arrays.files:
      if key.startswith('params:'):
        module, _, name = key.removeprefix('params:').rpartition('/')
        params.setdefault(module, {})[name] = arrays[key].astype(np.float32)
  return params


def _assert_equal(got, want):
  assert {m: set(e) for m, e in got.items()} == {m: set(e) for m, e in want.items()}
  for module, entries in want.items():
    for name, value in entries.items():
      assert isinstance(got[module][name], np.ndarray)
      assert got[module][name].shape == np.shape(value)
      assert got[module][name].dtype == value.dtype
      assert got[module][name].tobytes() == np.asarray(value).tobytes()


def test_round_trip(tmp_path, tree):
  assert any(a.shape == () for entries in tree.values() for a in entries.values())
  spec = {'width': (256, 512), 'activation': 'gelu', 'alpha': 0.2, 'se_ratio': None}
  save(tmp_path / 'w.safetensors', tree, spec=spec, metadata={'source': 'größer'})
  params, metadata = load(tmp_path / 'w.safetensors')
  _assert_equal(params, tree)
  assert metadata == {'spec': {**spec, 'width': [256, 512]}, 'source': 'größer'}
  assert [p.name for p in tmp_path.iterdir()] == ['w.safetensors']


def test_round_trip_of_device_arrays_dtypes_and_layouts(tmp_path):
  params = {
    'a/~/b//c': {'w': jnp.full((2, 3), 1 / 3, jnp.bfloat16), 'b': jnp.zeros((), jnp.float16)},
    'linear': {'w': np.arange(6.0).reshape(2, 3).T, 'empty': np.zeros((0, 2), np.float32)},
  }
  save(tmp_path / 'w', params)
  loaded, metadata = load(str(tmp_path / 'w'))
  _assert_equal(loaded, params)
  assert metadata == {}


def test_file_is_plain_safetensors(tmp_path, tree):
  save(tmp_path / 'w', tree)
  flat = safetensors.numpy.load_file(tmp_path / 'w')
  np.testing.assert_array_equal(flat['NFNet/~/linear//w'], tree['NFNet/~/linear']['w'])


@pytest.mark.skipif(os.name != 'posix', reason='file modes are of POSIX')
def test_file_has_the_mode_of_the_umask(tmp_path):
  code = (
    'import os, sys, numpy as np\n'
    'from nfnets.weights import save\n'
    'os.umask(0o026)\n'  # of the whole process, so in one of its own
    'save(sys.argv[1], {"m": {"w": np.ones(3)}})\n'
    'save(sys.argv[1], {"m": {"w": np.ones(4)}})\n'
  )
  root = Path(__file__).parents[3]
  subprocess.run([sys.executable, '-c', code, str(tmp_path / 'w')], cwd=root, check=True)
  assert (tmp_path / 'w').stat().st_mode & 0o777 == 0o640
  assert load(tmp_path / 'w')[0]['m']['w'].shape == (4,)


def test_failed_save_leaves_the_old_file(tmp_path, tree, monkeypatch):
  save(tmp_path / 'w', tree)

  def fail(arrays, path, metadata):
    Path(path).write_bytes(b'half')
    raise OSError('disk full')

  monkeypatch.setattr(safetensors.numpy, 'save_file', fail)
  with pytest.raises(OSError, match='disk full'):
    save(tmp_path / 'w', {'m': {'w': np.ones(3)}})
  monkeypatch.undo()
  _assert_equal(load(tmp_path / 'w')[0], tree)
  assert [p.name for p in tmp_path.iterdir()] == ['w']


@pytest.mark.parametrize(
  'bad',
  [
    {},
    {'m': {}},
    [np.ones(3)],
    {'m': np.ones(3)},
    {'m': {'a/b': np.ones(3)}},
    {'m': {'': np.ones(3)}},
    {'m': {'w': {'deep': np.ones(3)}}},
    {'m': {'w': 'text'}},
    {'m': {'w': None}},
    {'m': {'w': np.ones(3, np.complex128)}},
  ],
)
def test_other_trees_are_refused(tmp_path, bad):
  with pytest.raises(ValueError, match=r'tree|module|safetensors'):
    save(tmp_path / 'w', bad)
  assert not list(tmp_path.iterdir())


def test_bad_metadata_and_specs_are_refused(tmp_path):
  params = {'m': {'w': np.ones(3)}}
  for metadata in ({'format': 'mine'}, {'spec': '{}'}, {'epochs': 3}):
    with pytest.raises(ValueError, match='metadata must'):
      save(tmp_path / 'w', params, metadata=metadata)
  for spec in ({'init': np.ones(3)}, {'alpha': float('nan')}):
    with pytest.raises(ValueError, match='spec must'):
      save(tmp_path / 'w', params, spec=spec)


@pytest.mark.parametrize('kept', [0, 1, 7, 8, 100, 0.3, 0.9, -1])
def test_truncated_files_are_refused(tmp_path, tree, kept):
  save(tmp_path / 'whole', tree)
  data = (tmp_path / 'whole').read_bytes()
  end = int(kept * len(data)) if isinstance(kept, float) else kept
  (tmp_path / 'w').write_bytes(data[:end])
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load(tmp_path / 'w')


def test_foreign_files_are_refused(tmp_path):
  for data in (b'\x80\x04N.', b'\xff' * 64, b'PK\x03\x04' + bytes(64)):
    (tmp_path / 'w').write_bytes(data)
    with pytest.raises(ValueError, match='not a whole safetensors file'):
      load(tmp_path / 'w')
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load(GOLDEN / 'deepmind_format_tiny_haiku.npz')
  safetensors.numpy.save_file({'head.fc.weight': np.ones(3)}, tmp_path / 'timm')
  with pytest.raises(ValueError, match='of another program'):
    load(tmp_path / 'timm')
  with pytest.raises(FileNotFoundError, match='no weights file'):
    load(tmp_path / 'absent')
  with pytest.raises(FileNotFoundError, match='no weights file'):
    load(tmp_path)


@pytest.mark.parametrize(
  ('metadata', 'key', 'message'),
  [
    ({'format_version': '2'}, 'm//w', "format version '2'"),
    ({'spec': '{'}, 'm//w', 'the spec in its metadata'),
    ({}, 'm.w', "array 'm.w' is not named"),
    ({}, '//w', "array '//w' is not named"),
  ],
)
def test_damaged_contents_are_refused(tmp_path, metadata, key, message):
  metadata = {'format': 'nfnets.tree', 'format_version': '1', **metadata}
  safetensors.numpy.save_file({key: np.ones(3)}, tmp_path / 'w', metadata=metadata)
  with pytest.raises(ValueError, match=message):
    load(tmp_path / 'w')


def test_overlapping_arrays_are_refused(tmp_path):
  entry = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
  header = json.dumps({'m//a': entry, 'm//b': entry}).encode()
  (tmp_path / 'w').write_bytes(struct.pack('<Q', len(header)) + header + bytes(8))
  with pytest.raises(ValueError, match='not a whole safetensors file'):
    load(tmp_path / 'w')


def test_merge_keeps_order_and_casts(tree):
  target = {
    module: {name: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16) for name, a in entries.items()}
    for module, entries in reversed(tree.items())
  }
  merged = merge(target, tree)
  assert list(merged) == list(target)
  _assert_equal(merged, jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree))
  shapes = {m: {n: list(a.shape) for n, a in e.items()} for m, e in tree.items()}
  _assert_equal(merge(shapes, tree), tree)
  _assert_equal(merge(tree, tree), tree)


def test_merge_lists_both_sides(tree):
  loaded = {module: dict(entries) for module, entries in tree.items()}
  classes = loaded['NFNet/~/linear']['b'].shape[0]
  loaded['NFNet/~/linear']['b'] = np.zeros(classes + 7)
  missing = loaded.pop('NFNet/~/final_conv')
  loaded['other'] = {f'w{i}': np.zeros((i, 2)) for i in range(7)}
  with pytest.raises(ValueError, match='do not fit') as caught:
    merge(tree, loaded)
  message = str(caught.value)
  assert f'{len(missing)} missing' in message
  assert 'NFNet/~/final_conv/gain' in message
  assert '7 unexpected' in message
  assert 'other/w4 (4, 2), and 2 more' in message
  assert re.search(
    rf'1 of another shape: NFNet/~/linear/b \({classes},\) in the model, \({classes + 7},\) loaded',
    message,
  )
  with pytest.raises(ValueError, match='1 of another shape') as caught:
    merge({'m': {'skip_gain': ()}}, {'m': {'skip_gain': np.zeros(1)}})
  assert 'missing' not in str(caught.value)
