"""Files that are no weights, or broken ones, say what they are and what to do."""

import io
import json
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import nfnets
from nfnets import zoo
from nfnets.weights import formats, from_timm, load, load_deepmind, load_pretrained, save

SPEC = nfnets.ModelSpec(width=(8,), depth=(1,), stride=(1,), group_width=4, stem=((3, 2, 8),))


def zip_of(name):
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w') as archive:
    archive.writestr(name, b'\x80\x02}.')
  return file.getvalue()


LFS = b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n'
TORCH_1_5 = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.'

FILES = {
  'torch zip': (
    zip_of('model/data.pkl'),
    r'PyTorch checkpoint.*not opened.*torch.load.*nfnets convert',
  ),
  'torch before 1.6': (TORCH_1_5, r'PyTorch checkpoint.*safetensors.torch.save_file'),
  'npz': (zip_of('w.npy'), 'zip archive .*numpy.load'),
  'npy': (b'\x93NUMPY\x01\x00', 'single array'),
  'tar': (bytes(257) + b'ustar' + bytes(250), 'tar archive: unpack it'),
  'gzip': (b'\x1f\x8b\x08', 'gzip'),
  'git-LFS pointer': (LFS, 'git-LFS pointer, so the weights themselves were not downloaded'),
  'web page': (b'\n<!DOCTYPE html>', 'web page.*download the file again'),
  'XML of a bucket': (b"<?xml version='1.0'?><Error>", 'web page'),
  'JSON of a server': (b'{"error": "Not found"}', 'JSON text.*download the file again'),
  'empty': (b'', 'an empty file: download it again'),
}


@pytest.mark.parametrize(
  'read', [load, load_pretrained, lambda path: from_timm(path, 'test_nfnet')]
)
@pytest.mark.parametrize('kind', FILES)
def test_files_that_are_no_weights(kind, read, tmp_path):
  data, sentence = FILES[kind]
  path = tmp_path / 'model.bin'
  path.write_bytes(data)
  with pytest.raises(ValueError, match=sentence) as caught:
    read(path)
  assert str(path) in str(caught.value)


def test_a_pickle_is_for_load_deepmind(tmp_path):
  (tmp_path / 'w').write_bytes(pickle.dumps({}, 4))
  with pytest.raises(ValueError, match=r'a pickle: read DeepMind.s release with load_deepmind'):
    load(tmp_path / 'w')
  (tmp_path / 's').write_bytes(struct.pack('<Q', 40) + b'{"a": {}}')
  with pytest.raises(ValueError, match='safetensors file: read it with nfnets.weights.load'):
    load_deepmind(tmp_path / 's')


def test_a_folder_names_the_weights_in_it(tmp_path):
  (tmp_path / 'ema_weights.safetensors').touch()
  with pytest.raises(FileNotFoundError, match='a folder: name a file in it, such as ema_weights'):
    load(tmp_path)


def test_a_cut_file_is_told_from_a_whole_one(tmp_path):
  path = tmp_path / 'w'
  safetensors.numpy.save_file({'a': np.ones(9), 'b': np.ones((), np.int8)}, path)
  data = path.read_bytes()
  assert not formats.is_cut(path)
  for broken in (data[:-1], data[:40], data + b' ', b''):
    path.write_bytes(broken)
    assert formats.is_cut(path)
  path.write_bytes(struct.pack('<Q', 4) + b'{"a:' + bytes(9))  # damaged, and of no known size
  assert not formats.is_cut(path)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_numbers_that_are_not_finite_are_refused_by_name(bad, dtype, tmp_path):
  shapes = zoo.parameter_shapes(SPEC, 3)
  params = {m: {n: np.ones(a.shape, np.float32) for n, a in e.items()} for m, e in shapes.items()}
  params['NFNet/~/nf_block/~/conv1']['gain'] = np.array([1, bad, 2, bad], jnp.dtype(dtype))
  path = tmp_path / 'w.safetensors'
  save(path, params, spec=SPEC.to_dict())
  sentence = r'NaN or infinite numbers in NFNet/~/nf_block/~/conv1/gain \(2 of 4 numbers\)'
  for read in (load, load_pretrained):
    with pytest.raises(ValueError, match=sentence):
      read(path)
  with pytest.raises(ValueError, match=sentence):
    nfnets.Classifier(params, SPEC)
  loaded, _ = load(path, allow_nonfinite=True)
  assert np.sum(~np.isfinite(np.float32(loaded['NFNet/~/nf_block/~/conv1']['gain']))) == 2


@pytest.mark.parametrize(('dtype', 'size'), [('F8_E4M3', 1), ('F8_E5M2', 1), ('C64', 8)])
def test_dtypes_that_cannot_be_weights_are_refused_by_name(dtype, size, tmp_path):
  entry = {'dtype': dtype, 'shape': [2], 'data_offsets': [0, 2 * size]}
  metadata = {'format': 'nfnets.tree', 'format_version': '1'}
  header = json.dumps({'__metadata__': metadata, 'm//w': entry}).encode()
  (tmp_path / 'w').write_bytes(struct.pack('<Q', len(header)) + header + bytes(2 * size))
  for read in (load, lambda path: from_timm(path, 'test_nfnet')):
    with pytest.raises(ValueError, match=f'm//w as {dtype}.*float32 or bfloat16'):
      read(tmp_path / 'w')
