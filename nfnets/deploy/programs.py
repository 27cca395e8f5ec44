"""A trained network as one function of images, and as a file of StableHLO."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

import haiku as hk
import jax
import jax.numpy as jnp
from jax import export as jax_export

from nfnets import baselines, execution, weights, zoo
from nfnets.deploy.folding import Params
from nfnets.sides import Sides
from nfnets.weights.atomic import replacing


def predictor(params: Params, spec: zoo.AnySpec) -> Callable[[jax.Array], jax.Array]:
  """Returns a pure function: normalised images [N, H, W, C] float32 -> logits [N, K] float32.

  Args:
    params: as for `fold`, with a classifier; folded or not.
    spec: what they belong to.

  Raises:
    ValueError: the parameters are not those of the spec, see `weights.fit`; from the function: the
      images are not float32.
  """
  params = weights.fit(params, spec, needs_classifier=True)
  num_classes = weights.count_classes(params, spec)
  variables = jax.tree.map(jnp.asarray, baselines.split_state(params))
  network = hk.transform_with_state(
    lambda x: zoo.create_model(spec, num_classes)(x, is_training=False)['logits']
  )

  def predict(images: jax.Array) -> jax.Array:
    if images.dtype != jnp.float32:
      raise ValueError(
        f'the images must be normalised numbers in float32, got {images.dtype}: '
        f'nfnets.inference.preprocess makes them of pictures.'
      )
    logits, _ = network.apply(*variables, None, images)
    return logits

  return predict


@contextlib.contextmanager
def portable() -> Iterator[None]:
  """A context in which a network is traced for any machine, not rewritten for this one.

  Exports are traced in it: what is fast on this machine may be slow on another one, and programs
  written for a TPU cannot be stored.
  """
  with execution.strategy('plain', space_to_depth='off'):
    yield


def export_stablehlo(
  path: str | os.PathLike,
  params: Params,
  spec: zoo.AnySpec,
  *,
  size: Sides | None = None,
  batch_size: int | None = None,
  platforms: tuple[str, ...] = ('cpu', 'cuda', 'tpu'),
) -> None:
  """Writes images -> logits as one file of StableHLO with its weights, by `jax.export`.

  The program is the same whichever machine writes it, see `portable`.

  Args:
    path: the file; as with `weights.save`, it is written whole or not at all.
    params: as for `predictor`.
    spec: what they belong to.
    size: height and width of the images, one number or both; None: the spec's test size.
    batch_size: number of images per call; None: any.
    platforms: where it will run.

  Raises:
    ValueError: as `predictor`.
  """
  batch = batch_size or jax_export.symbolic_shape('batch')[0]
  images = jax.ShapeDtypeStruct((batch, *zoo.input_shape(spec, size)), jnp.float32)
  with portable():
    exported = jax_export.export(jax.jit(predictor(params, spec)), platforms=platforms)(images)
  with replacing(path) as temporary:
    temporary.write_bytes(exported.serialize())


def load_stablehlo(path: str | os.PathLike) -> Callable[[jax.Array], jax.Array]:
  """Returns the function that `export_stablehlo` wrote: images [N, H, W, C] -> logits [N, K].

  Raises:
    ValueError: the file is no such export.
  """
  try:
    exported = jax_export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
  except OSError:
    raise
  except Exception as error:  # flatbuffers raises many kinds for damaged files
    raise ValueError(
      f'{path} is not a file that export_stablehlo wrote, or is incomplete: write it again.'
    ) from error
  return exported.call
