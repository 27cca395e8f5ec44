#!/usr/bin/env python3
"""Converts weights; what IN holds says what OUT becomes.

    nfnets convert F0_haiku.npz F0.safetensors            DeepMind's release -> ours
    nfnets convert timm.safetensors ours.safetensors --model eca_nfnet_l0    timm -> ours
    nfnets convert ours.safetensors timm.safetensors      ours -> timm

The result computes the same function. A file of ours says which model it is for, so that the other
scripts need nothing else; timm's does not, and DeepMind's only by its shapes. Exit code 0: done;
1: it cannot be converted; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import pathlib
import sys
from typing import NamedTuple

import numpy as np
import safetensors.numpy

from experiments.runtime import output_files, platforms
from nfnets import weights, zoo
from nfnets.weights import formats
from nfnets.weights.atomic import replacing


class Converted(NamedTuple):
  """What was written."""

  source: str  # in words
  target: str
  arrays: list[np.ndarray]
  hint: str = ''


def main(argv: list[str] | None = None) -> int:
  """Converts as the arguments say; returns the exit code."""
  args = _parse(argv)
  try:
    done = convert(args.input, args.output, args.model)
  except (OSError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  size = sum(np.size(array) for array in done.arrays)
  print(
    f'{args.input} ({done.source}) -> {args.output} ({done.target}): {len(done.arrays)} arrays, '
    f'{size:,} parameters.{done.hint}'
  )
  return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('input', type=pathlib.Path, metavar='IN', help='the file to read')
  parser.add_argument('output', type=pathlib.Path, metavar='OUT', help='the .safetensors to write')
  parser.add_argument(
    '--model',
    metavar='NAME',
    help='the model of the weights; needed for those of timm, otherwise found in the file',
  )
  args = parser.parse_args(argv)
  if not args.input.is_file():
    parser.error(f'there is no file {args.input}')
  try:
    output_files.require(args.output, 'OUT', suffixes=('.safetensors',), inputs=[args.input])
    zoo.get_spec(args.model or 'F0')
  except ValueError as error:
    parser.error(str(error))
  return args


@platforms.explained()
def convert(source: pathlib.Path, target: pathlib.Path, model: str | None) -> Converted:
  """Reads one kind of file and writes another.

  Args:
    source: the file to read.
    target: the file to write, which is replaced.
    model: name of the model, where it has to be told.

  Raises:
    OSError: a file cannot be read or written.
    ValueError: the source is none of the kinds, damaged, or of another model.
  """
  kind = _kind(source)
  if kind == 'ours':
    return _to_timm(source, target, model)
  if kind == 'timm':
    if model is None:
      raise ValueError(
        f'{source} does not say which network it is for: add --model NAME, e.g. dm_nfnet_f0 '
        '(nfnets.list_models() has all names).'
      )
    params, spec = weights.from_timm(source, model), zoo.get_spec(model)
    preprocessing = weights.preprocessing_of(model)
    weights.save(target, params, spec=spec, preprocessing=preprocessing)
    hint = f' Pictures are prepared so: {preprocessing}.'
    return Converted('timm', f'ours, {model}', _arrays(params), hint)
  if model is None:
    params, spec, model = weights.load_pretrained(source)
  else:
    params, spec = weights.load_deepmind(source, model), zoo.get_spec(model)
  weights.save(target, params, spec=spec, preprocessing=weights.preprocessing_of(model))
  return Converted("DeepMind's release", f'ours, {model}', _arrays(params))


def _to_timm(source: pathlib.Path, target: pathlib.Path, model: str | None) -> Converted:
  params, metadata = weights.load(source)
  if model is not None:
    spec = zoo.get_spec(model)
  elif 'spec' in metadata:
    spec = zoo.spec_from_dict(metadata['spec'])
  else:
    raise ValueError(f'{source} does not say which model it is for: add --model NAME.')
  state = weights.to_timm(params, spec)
  # timm reads files whose metadata say that they are PyTorch's.
  with replacing(target) as temporary:
    safetensors.numpy.save_file(state, temporary, metadata={'format': 'pt'})
  hint = ''
  if spec.activation == 'gelu':
    hint = " Its GELU is the tanh form: build timm's model with act_layer='gelu_tanh'."
  return Converted('ours', 'timm', list(state.values()), hint)


def _kind(path: pathlib.Path) -> str:
  """'ours', 'timm' (any other safetensors file) or 'deepmind' (anything else)."""
  if not formats.is_safetensors(path):
    return 'deepmind'
  metadata, _ = formats.read_safetensors(path, with_arrays=False)
  return 'ours' if metadata.get('format', '').startswith('nfnets.') else 'timm'


def _arrays(params: dict[str, dict[str, np.ndarray]]) -> list[np.ndarray]:
  return [array for entries in params.values() for array in entries.values()]


if __name__ == '__main__':
  sys.exit(main())
