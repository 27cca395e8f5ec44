"""Folding a trained network into plain convolutions, and exporting it.

In evaluation everything that makes a network normalizer-free is a constant: standardised weights,
gains, gamma, beta, alpha, skip gains and the attention's factor of 2 all go into convolutions. So
do the running statistics of batch normalisation.
"""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from nfnets import activations, baselines, execution, weights, zoo
from nfnets.baselines import BaselineSpec
from nfnets.block_plan import BlockPlan, plan_blocks
from nfnets.execution import standardize
from nfnets.spec import ModelSpec
from nfnets.weights.atomic import replacing

Params = Mapping[str, Mapping[str, Any]]

# A branch with a smaller factor is off: float32 could not hold its values, nor one over the factor.
_SMALLEST = 1e-30


def fold(params: Params, spec: zoo.AnySpec) -> tuple[dict[str, dict[str, np.ndarray]], zoo.AnySpec]:
  """Folds a network of any family into plain convolutions.

  Args:
    params: its parameters, module path -> name -> float array, those of a batch-normalised network
      with its state (`baselines.join_state`). The classifier may be missing.
    spec: what they belong to.

  Returns:
    Parameters, float32, and the spec, which says that it is folded: a network of the same class
    with equal outputs, fewer parameters and fewer operations. It can be saved, loaded and called
    like any other, but not trained further with the recipe of its family. A normalizer-free
    network then has `w` and `b` only, a batch-normalised one no state; the first normalisation of
    a ResNet-v2's blocks and its last one follow no convolution and become a scale and an offset.

  Raises:
    ValueError: it is folded already, or the parameters are not those of the spec, see
      `weights.fit`.
  """
  if is_folded(spec):
    raise ValueError('This network is folded already: use it as it is.')
  params = weights.fit(params, spec)
  if isinstance(spec, BaselineSpec):
    return baselines.fold(params, spec)
  root, names = spec.family, spec.names
  gamma = 1.0 if spec.conventions.gamma_in_conv else activations.get(spec.activation).gamma
  folded: dict[str, dict[str, np.ndarray]] = {}

  def conv(path: str, in_scale: float, out_scale: float = 1.0) -> None:
    """Standardises a convolution whose input lost a factor and whose output gains one."""
    folded[path] = {
      'w': _standardized(params, path, spec) * np.float32(in_scale * out_scale),
      'b': np.asarray(params[path]['bias'], np.float32) * np.float32(out_scale),
    }

  for i in range(len(spec.stem)):
    conv(f'{root}/~/{names.stem_conv.format(i)}', gamma if i else 1.0)
  for i, plan in enumerate(plan_blocks(spec)):
    block = f'{root}/~/{names.block}' + (f'_{i}' if i else '')
    _fold_block(params, block, plan, spec, gamma, conv, folded)
  if spec.final_conv:
    conv(f'{root}/~/final_conv', 1.0)  # no activation comes before it
  classifier = zoo.classifier_path(spec)
  if classifier in params:
    folded[classifier] = _float32(params[classifier])
  conventions = dataclasses.replace(spec.conventions, folded=True)
  return folded, spec.replace(conventions=conventions, skip_gain=False)


def is_folded(spec: zoo.AnySpec) -> bool:
  """Whether a spec is of a folded network."""
  return spec.folded if isinstance(spec, BaselineSpec) else spec.conventions.folded


def _fold_block(
  params: Params,
  block: str,
  plan: BlockPlan,
  spec: ModelSpec,
  gamma: float,
  conv: Callable[..., None],
  folded: dict[str, dict[str, np.ndarray]],
) -> None:
  """Folds one block; `conv` puts a convolution's plain weights into `folded`."""
  spatial = ['conv1', 'conv1b'] if spec.two_convs else ['conv1']
  attention = [path for path in params if path.startswith(f'{block}/~/') and 'conv' not in path]
  scales = dict.fromkeys(['conv0', *spatial, 'conv2'], 1.0)  # of each convolution's output
  scales['conv2'] = spec.alpha * float(params[block]['skip_gain'] if spec.skip_gain else 1.0)
  if abs(scales['conv2']) < _SMALLEST:
    scales['conv2'] = 0.0
  if attention:
    attended = 'conv2' if spec.attention_position == 'last' else spatial[-1]
    scales[attended] *= 2.0
    folded |= {path: _float32(params[path]) for path in attention}
    # The attention sees the scaled output, so its first weights take the scale back. A branch that
    # is switched off is zero whatever the attention says.
    first = folded[min(attention)]  # squeeze-excite's 'linear' comes before its 'linear_1'
    first['w'] = first['w'] / np.float32(scales[attended] or 1.0)

  conv(f'{block}/~/conv0', gamma * plan.beta)
  for name in (*spatial, 'conv2'):
    conv(f'{block}/~/{name}', gamma, scales[name])
  if plan.is_transition:
    conv(f'{block}/~/conv_shortcut', gamma * plan.beta)


def _standardized(params: Params, path: str, spec: ModelSpec) -> np.ndarray:
  conventions = spec.conventions
  gamma = activations.get(spec.activation).gamma if conventions.gamma_in_conv else 1.0
  w, gain = (jnp.asarray(params[path][name], jnp.float32) for name in ('w', 'gain'))
  return np.asarray(
    standardize(
      w,
      gain * gamma,
      epsilon=conventions.epsilon,
      epsilon_added_to_variance=conventions.epsilon_added_to_variance,
    )
  )


def _float32(entries: Mapping[str, Any]) -> dict[str, np.ndarray]:
  return {name: np.asarray(value, np.float32) for name, value in entries.items()}


def predictor(params: Params, spec: zoo.AnySpec) -> Callable[[jax.Array], jax.Array]:
  """Returns a pure function: normalised images [N, H, W, 3] float32 -> logits [N, K] float32.

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
  """Inside, a network is traced as it is written, for any machine, and not rewritten for this one.

  Exports are traced so: what is right for this machine may be slow on another one, and what is
  written for a TPU cannot be stored.
  """
  with execution.strategy('plain', space_to_depth='off'):
    yield


def export_stablehlo(
  path: str | os.PathLike,
  params: Params,
  spec: zoo.AnySpec,
  *,
  size: int | None = None,
  batch_size: int | None = None,
  platforms: tuple[str, ...] = ('cpu', 'cuda', 'tpu'),
) -> None:
  """Writes images -> logits as one file of StableHLO with its weights, by `jax.export`.

  The program is the same whichever machine writes it, see `portable`.

  Args:
    path: where to write; as `weights.save`, whole or not at all.
    params: as for `predictor`.
    spec: what they belong to.
    size: height and width of the images; None: the spec's test size.
    batch_size: number of images of a call; None: any.
    platforms: where it shall run.

  Raises:
    ValueError: as `predictor`.
  """
  size = size or spec.test_size
  batch = batch_size or jax_export.symbolic_shape('batch')[0]
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  with portable():
    exported = jax_export.export(jax.jit(predictor(params, spec)), platforms=platforms)(images)
  with replacing(path) as temporary:
    temporary.write_bytes(exported.serialize())


def load_stablehlo(path: str | os.PathLike) -> Callable[[jax.Array], jax.Array]:
  """Returns the function that `export_stablehlo` wrote: images [N, H, W, 3] -> logits [N, K].

  Raises:
    ValueError: the file is no such export.
  """
  try:
    exported = jax_export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
  except OSError:
    raise
  except Exception as error:  # flatbuffers raises many kinds for damaged files
    raise ValueError(
      f'{path} is not a file that export_stablehlo wrote, or not a whole one: write it again.'
    ) from error
  return exported.call
