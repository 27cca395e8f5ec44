"""Identifies files: safetensors, read with every number checked, or something else, with a remedy.

Nothing is unpickled or unpacked: the first bytes identify a format.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

_START = 512  # bytes that tell a format
# In safetensors' words; numpy has no float8, and no layer has complex weights.
_INTEGERS = ('BOOL', 'U8', 'I8', 'U16', 'I16', 'U32', 'I32', 'U64', 'I64')
_DTYPES = (*_INTEGERS, 'F16', 'BF16', 'F32', 'F64')
_TORCH_MAGIC = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'  # torch.save before 1.6
_TORCH = (
  'a PyTorch checkpoint, a pickle that is not opened here: where PyTorch is installed, write its '
  "state dict as safetensors, safetensors.torch.save_file(torch.load(IN, map_location='cpu', "
  "weights_only=True), 'OUT.safetensors') (of a training checkpoint its entry 'state_dict' or "
  "'model'), and convert that by `nfnets convert --model NAME`"
)
_STARTS = {
  b'version https://git-lfs': (
    'a git-LFS pointer, so the weights themselves were not downloaded: run git lfs pull in its '
    'repository, or download the file'
  ),
  _TORCH_MAGIC: _TORCH,
  b'\x93NUMPY': 'a single array: read it with numpy.load',
  b'\x89HDF\r\n\x1a\n': 'an HDF5 file, which this library does not read',
  b'\x1f\x8b': 'gzip-compressed: decompress it first',
}
_PICKLE = "a pickle: read DeepMind's release with load_deepmind; " + _TORCH.replace(
  'a PyTorch', 'of a'
)


def describe(path: str | os.PathLike) -> str | None:
  """Says what a file is that was given as weights, and what to do with it.

  Args:
    path: an existing file.

  Returns:
    The end of a sentence, 'a web page, ...: download ...'; None for a pickle that may hold
    published weights, for files that begin like safetensors and for unknown files.
  """
  with open(path, 'rb') as file:
    start = file.read(_START)
  if not start:
    return 'an empty file: download it again'
  if start.startswith(b'PK\x03\x04'):
    # A zip archive's first entry: PyTorch's is <name>/data.pkl.
    name = start[30 : 30 + int.from_bytes(start[26:28], 'little')]
    if name.endswith(b'/data.pkl'):
      return _TORCH
    return 'a zip archive (an .npz or others): read arrays with numpy.load'
  for beginning, what in _STARTS.items():
    if start.startswith(beginning):
      return what
  if start[257:262] == b'ustar':
    return 'a tar archive: unpack it first'
  if start.lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'<'):
    return 'a web page, perhaps of a failed download: download the file again'
  if start.lstrip().startswith((b'{"', b'{\n')):
    return 'JSON text, perhaps the answer of a server that refused: download the file again'
  return None


def is_safetensors(path: str | os.PathLike) -> bool:
  """Whether a file begins like safetensors: eight bytes of length, then JSON."""
  with open(path, 'rb') as file:
    return file.read(9)[8:] == b'{'


def is_cut(path: str | os.PathLike) -> bool:
  """Whether a file's size differs from what its safetensors header says; true if it is empty."""
  size = os.path.getsize(path)
  if not size:
    return True
  if not is_safetensors(path):
    return False
  with open(path, 'rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if 8 + length > size:
      return True
    try:
      entries = json.loads(file.read(length))
      ends = [e['data_offsets'][1] for name, e in entries.items() if name != '__metadata__']
      return 8 + length + max(ends, default=0) != size
    except (ValueError, TypeError, LookupError):
      return False  # damaged, and of no known size


def read_safetensors(
  path: str | os.PathLike, *, with_arrays: bool = True, allow_nonfinite: bool = False
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
  """Reads a whole safetensors file of any program.

  Args:
    path: the file.
    with_arrays: whether to read more than the metadata.
    allow_nonfinite: whether NaN and infinite numbers are accepted.

  Returns:
    The metadata, and key -> array (none unless asked for), in no particular order.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is truncated, damaged or of another format, or one of its arrays cannot be a
      weight.
  """
  if os.path.isdir(path):
    found = sorted(file.name for file in Path(path).glob('*.safetensors'))
    hint = f': name a file in it, such as {found[0]}' if found else ''
    raise FileNotFoundError(f'there is no weights file {os.fspath(path)!r}, it is a folder{hint}.')
  if not os.path.isfile(path):
    raise FileNotFoundError(f'there is no weights file {os.fspath(path)!r}.')
  try:
    with safetensors.safe_open(path, framework='np') as file:
      metadata = dict(file.metadata() or {})
      for key in file.keys() if with_arrays else ():
        dtype = file.get_slice(key).get_dtype()
        if dtype not in _DTYPES:
          raise ValueError(
            f'{path} holds {key} as {dtype}, which cannot be computed with here: save it as '
            f'float32 or bfloat16.'
          )
      arrays = file.get_tensors() if with_arrays else {}
  except safetensors.SafetensorError as error:
    raise ValueError(f'{path} is not a whole safetensors file{_reason(path, error)}.') from None
  if not allow_nonfinite:
    check_finite(arrays, path)
  return metadata, arrays


def _reason(path: str | os.PathLike, error: Exception) -> str:
  """Why a file is not a complete safetensors file, and what to do."""
  if is_safetensors(path):
    return f' ({error}): it is truncated or damaged: get it again'
  with open(path, 'rb') as file:
    is_pickle = file.read(2) in (b'\x80\x03', b'\x80\x04', b'\x80\x02', b'\x80\x05')
  what = describe(path) or (_PICKLE if is_pickle else None)
  return f' but {what}' if what else f' ({error}): get it again'


def check_finite(arrays: Mapping[str, np.ndarray], where: str | os.PathLike) -> None:
  """Refuses NaN and infinite numbers.

  Args:
    arrays: name -> array of any dtype.
    where: what contains them, for the message.

  Raises:
    ValueError: some arrays contain such numbers; the message names the first few.
  """
  broken = [
    f'{name} ({np.size(array) - count} of {np.size(array)} numbers)'
    for name, array in arrays.items()
    if (count := _count_finite(np.asarray(array))) < np.size(array)
  ]
  if broken:
    more = f' and {len(broken) - 3} more arrays' if len(broken) > 3 else ''
    raise ValueError(
      f'{where} holds NaN or infinite numbers in {", ".join(broken[:3])}{more}: it is damaged, or '
      f'the training that wrote it diverged; take an earlier checkpoint, or get the file again.'
    )


def _count_finite(array: np.ndarray) -> int:
  return np.size(array) if array.dtype.kind in 'biu' else int(np.count_nonzero(np.isfinite(array)))
