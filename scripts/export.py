"""Writes a network for deployment: nfnets export WEIGHTS OUT [--format stablehlo]

WEIGHTS is a name (F0), a file of this library or the folder of a run; OUT is a .safetensors file of
the folded network, a StableHLO file, an ONNX file, a .tflite file for LiteRT or a folder for a
TensorFlow SavedModel.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import importlib.util
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from experiments.runtime import output_files, platforms
from experiments.runtime.errors import ConfigError
from nfnets import deploy, installation, load_pretrained, weights, zoo
from nfnets.audio import SoundPreprocessing
from nfnets.deploy.folding import Params
from nfnets.preprocessing import Preprocessing
from nfnets.sides import Sides
from nfnets.weights.atomic import replacing

SUFFIXES = {
  '.safetensors': 'safetensors',
  '.stablehlo': 'stablehlo',
  '.onnx': 'onnx',
  '.tflite': 'tflite',
  '': 'saved_model',
}
# What a format needs beside this library, and the extra that brings it.
_PACKAGES = {
  'onnx': ('onnx', 'onnx'),
  'saved_model': ('tensorflow', 'tfds'),
  'tflite': ('tensorflow', 'tfds'),
}


_SAVED_MODEL = {'assets', 'fingerprint.pb', 'saved_model.pb', 'variables'}


def main(argv: list[str] | None = None) -> int:
  """Folds and exports what the arguments say; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('weights', help="a name such as F0, a .safetensors file or a run's folder")
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument(
    '--format',
    choices=('safetensors', 'stablehlo', 'onnx', 'tflite', 'saved_model'),
    help="default: by OUT's suffix",
  )
  parser.add_argument('--size', type=int, help="side of the images; default: the model's test size")
  parser.add_argument('--batch-size', type=int, help='default: any; of LiteRT: 1')
  parser.add_argument('--no-fold', action='store_true', help='keep the standardised convolutions')
  parser.add_argument('--int8', action='store_true', help='an ONNX file in eight bits')
  parser.add_argument(
    '--calibration', metavar='DIR', help='of --int8: a folder of typical pictures'
  )
  arguments = parser.parse_args(argv)
  if arguments.int8 != bool(arguments.calibration):
    parser.error('--int8 and --calibration DIR, the pictures to quantise with, belong together')
  try:
    export(arguments)
  except (ValueError, OSError, ImportError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  return 0


@platforms.explained()
def export(arguments: argparse.Namespace) -> None:
  """Loads, folds, writes, and says what it wrote."""
  kind = arguments.format or _kind_of(arguments.out)
  if arguments.int8 and kind != 'onnx':
    raise ValueError(f'--int8 writes ONNX files, not {kind}: give OUT the suffix .onnx.')
  _check(arguments, kind)
  print(f'Reading {arguments.weights}.', flush=True)
  loaded = load_pretrained(arguments.weights)
  params, spec, name = loaded
  is_sound = isinstance(loaded.preprocessing, SoundPreprocessing)
  if is_sound and (arguments.size or arguments.int8):
    raise ValueError(
      f'--size and --int8 are for pictures, and {name} is for sounds: leave them out.'
    )
  preprocessing = loaded.preprocessing.replace(size=arguments.size)
  said = {} if loaded.class_names is None else {'class_names': loaded.class_names}
  if not arguments.no_fold and not deploy.is_folded(spec):
    print(f'Folding {name} into plain convolutions.', flush=True)
    params, spec = deploy.fold(params, spec)
  options = {'size': preprocessing.size, 'batch_size': arguments.batch_size}
  print(
    f'Writing {name} as {kind}: seconds for a small network, minutes for a large one.', flush=True
  )
  if kind == 'safetensors':
    names = loaded.class_names
    weights.save(arguments.out, params, spec=spec, class_names=names, preprocessing=preprocessing)
  elif arguments.int8:
    print(write_int8(arguments, params, spec, preprocessing, said))
  elif kind == 'onnx':
    deploy.export_onnx(
      arguments.out, params, spec, **options, preprocessing=preprocessing, metadata=said
    )
  else:
    write = {
      'stablehlo': deploy.export_stablehlo,
      'tflite': write_tflite,
      'saved_model': write_saved_model,
    }[kind]
    write(arguments.out, params, spec, **options)
  count = sum(x.size for entries in params.values() for x in entries.values())
  print(
    f'{name}: {count:,} parameters as {kind} in {arguments.out}. '
    f'{"Sounds" if is_sound else "Pictures"} are to be prepared so: {preprocessing}.'
  )


def _check(arguments: argparse.Namespace, kind: str) -> None:
  """Raises what would otherwise come after the work: ConfigError or ImportError."""
  inputs = [arguments.weights]
  if kind == 'saved_model':
    if arguments.out.exists() and not arguments.out.is_dir():
      raise ConfigError(f'OUT={arguments.out} is a file, and a SavedModel is a folder: name one.')
    if arguments.out.is_dir() and {p.name for p in arguments.out.iterdir()} - _SAVED_MODEL:
      raise ConfigError(f'OUT={arguments.out} has files of its own: name a new folder.')
    output_files.refuse_overwrite(arguments.out, 'OUT', inputs)
  else:
    output_files.require(arguments.out, 'OUT', inputs=inputs)
  package, extra = _PACKAGES.get(kind, (None, ''))
  if package and importlib.util.find_spec(package) is None:
    raise ImportError(f'{kind} needs the package {package}: {installation.command(extra)}')


def _kind_of(out: pathlib.Path) -> str:
  """The format that a suffix stands for; no suffix is a folder."""
  kind = SUFFIXES.get(out.suffix.lower())
  if kind is None:
    raise ValueError(
      f'{out} ends in {out.suffix}, which stands for no format: use one of '
      f'{", ".join(filter(None, SUFFIXES))}, no suffix for the folder of a SavedModel, or --format.'
    )
  return kind


def write_int8(
  arguments: argparse.Namespace,
  params: Params,
  spec: zoo.AnySpec,
  preprocessing: Preprocessing,
  said: Mapping[str, Any],
) -> deploy.Quantization:
  """Writes an ONNX file in eight bits, quantised with pictures prepared for the weights."""
  options = {'batch_size': arguments.batch_size, 'preprocessing': preprocessing, 'metadata': said}
  with interruption.temporary_folder() as folder:
    source = pathlib.Path(folder) / 'float32.onnx'
    deploy.export_onnx(source, params, spec, **options)
    return deploy.quantize_onnx(source, arguments.out, arguments.calibration, prepare=preprocessing)


def write_tflite(path, params, spec, *, size: Sides | None, batch_size: int | None) -> None:
  """Writes images [N, H, W, C] float32 -> logits as a file for LiteRT, by way of a SavedModel."""
  with interruption.temporary_folder() as folder:
    write_saved_model(folder, params, spec, size=size, batch_size=batch_size or 1)
    import tensorflow as tf

    content = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
  with replacing(path) as temporary:
    temporary.write_bytes(content)


def write_saved_model(path, params, spec, *, size: Sides | None, batch_size: int | None) -> None:
  """Writes images [N, H, W, C] float32 -> logits as the `predict` of a TensorFlow SavedModel."""
  try:
    import tensorflow as tf
    from jax.experimental import jax2tf
  except ImportError as error:
    needed = installation.command('tfds')
    raise ImportError(f'SavedModels and LiteRT files need TensorFlow: {needed}') from error
  shape = zoo.input_shape(spec, size)
  function = jax2tf.convert(
    deploy.predictor(params, spec),
    polymorphic_shapes=None if batch_size else [f'(b, {", ".join(map(str, shape))})'],
    with_gradient=False,
  )
  module = tf.Module()
  module.predict = tf.function(
    function,
    autograph=False,
    input_signature=[tf.TensorSpec((batch_size, *shape), tf.float32, name='images')],
  )
  target = pathlib.Path(path)
  unfinished = target.with_name(f'.{target.name}.unfinished')
  with interruption.undone(lambda: shutil.rmtree(unfinished)):
    with deploy.portable():  # it is traced here
      tf.saved_model.save(module, str(unfinished))
    shutil.rmtree(target, ignore_errors=True)  # a SavedModel as well
    unfinished.rename(target)


if __name__ == '__main__':
  sys.exit(main())
