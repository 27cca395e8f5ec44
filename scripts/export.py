"""Writes a network for deployment: python scripts/export.py WEIGHTS OUT [--format stablehlo]

WEIGHTS is a name (F0), or a file of this library; OUT is a .safetensors file of the folded network,
a StableHLO file, an ONNX file or a folder for a TensorFlow SavedModel.
"""

import argparse
import pathlib
import sys

from experiments.runtime import platforms
from nfnets import deploy, load_pretrained, weights

SUFFIXES = {'.safetensors': 'safetensors', '.stablehlo': 'stablehlo', '.onnx': 'onnx'}


def main() -> int:
  """Folds and exports what the arguments say; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument('weights', help='a name such as F0, or a .safetensors file')
  parser.add_argument('out', type=pathlib.Path)
  parser.add_argument(
    '--format',
    choices=('safetensors', 'stablehlo', 'onnx', 'saved_model'),
    help="default: by OUT's suffix",
  )
  parser.add_argument('--size', type=int, help="side of the images; default: the model's test size")
  parser.add_argument('--batch-size', type=int, help='default: any')
  parser.add_argument('--no-fold', action='store_true', help='keep the standardised convolutions')
  arguments = parser.parse_args()
  try:
    export(arguments)
  except (ValueError, OSError, ImportError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  return 0


@platforms.explained()
def export(arguments: argparse.Namespace) -> None:
  """Loads, folds, writes, and says what it wrote."""
  kind = arguments.format or SUFFIXES.get(arguments.out.suffix, 'saved_model')
  params, spec, name = load_pretrained(arguments.weights)
  if not arguments.no_fold and not deploy.is_folded(spec):
    params, spec = deploy.fold(params, spec)
  options = {'size': arguments.size, 'batch_size': arguments.batch_size}
  if kind == 'safetensors':
    weights.save(arguments.out, params, spec=spec.to_dict())
  else:
    write = {
      'stablehlo': deploy.export_stablehlo,
      'onnx': write_onnx,
      'saved_model': write_saved_model,
    }[kind]
    write(arguments.out, params, spec, **options)
  count = sum(x.size for entries in params.values() for x in entries.values())
  print(f'{name}: {count:,} parameters as {kind} in {arguments.out}')


def write_onnx(path, params, spec, *, size: int | None, batch_size: int | None) -> None:
  """Writes images [N, H, W, 3] float32 -> logits as an ONNX file."""
  try:
    import jax2onnx
  except ImportError as error:
    raise ImportError("ONNX files need jax2onnx: pip install 'nfnets[onnx]'.") from error
  size = size or spec.test_size
  # Grouped convolutions stay grouped: that is what ONNX runtimes are good at.
  with deploy.portable():
    jax2onnx.to_onnx(
      deploy.predictor(params, spec),
      inputs=[(batch_size or 'B', size, size, 3)],
      return_mode='file',
      output_path=str(path),
    )


def write_saved_model(path, params, spec, *, size: int | None, batch_size: int | None) -> None:
  """Writes images [N, H, W, 3] float32 -> logits as the `predict` of a TensorFlow SavedModel."""
  try:
    import tensorflow as tf
    from jax.experimental import jax2tf
  except ImportError as error:
    raise ImportError("SavedModels need TensorFlow: pip install 'nfnets[tfds]'.") from error
  size = size or spec.test_size
  function = jax2tf.convert(
    deploy.predictor(params, spec),
    polymorphic_shapes=None if batch_size else [f'(b, {size}, {size}, 3)'],
    with_gradient=False,
  )
  module = tf.Module()
  module.predict = tf.function(
    function,
    autograph=False,
    input_signature=[tf.TensorSpec((batch_size, size, size, 3), tf.float32, name='images')],
  )
  with deploy.portable():  # it is traced here
    tf.saved_model.save(module, str(path))


if __name__ == '__main__':
  sys.exit(main())
