"""Folding a trained network into plain convolutions, and exporting it.

In evaluation everything that makes a network normalizer-free is a constant: standardised weights,
gains, gamma, beta, alpha, skip gains and the attention's factor of 2 all go into convolutions.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from nfnets import activations, weights, zoo
from nfnets.block_plan import BlockPlan, plan_blocks
from nfnets.execution import standardize
from nfnets.spec import ModelSpec

Params = Mapping[str, Mapping[str, Any]]


def fold(params: Params, spec: ModelSpec) -> tuple[dict[str, dict[str, np.ndarray]], ModelSpec]:
  """Folds a network of any normalizer-free family into plain convolutions.

  Args:
    params: its parameters, module path -> name -> float array.
    spec: what they belong to.

  Returns:
    Parameters (float32, `w` and `b` only) and the spec with `conventions.folded`: a network of the
    same class with equal outputs, fewer parameters and fewer operations. It can be saved, loaded
    and called like any other, but not trained further with the recipe of its family.

  Raises:
    ValueError: it is folded already, or the parameters are not those of the spec.
  """
  if spec.conventions.folded:
    raise ValueError('This network is folded already: use it as it is.')
  root = _root(params)
  num_classes = np.shape(params[f'{root}/~/linear']['w'])[1]
  params = weights.merge(zoo.parameter_shapes(spec, num_classes), params)
  names = spec.names
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
  folded[f'{root}/~/linear'] = _float32(params[f'{root}/~/linear'])
  conventions = dataclasses.replace(spec.conventions, folded=True)
  return folded, spec.replace(conventions=conventions, skip_gain=False)


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


def _root(params: Params) -> str:
  roots = {path.split('/')[0] for path in params}
  if len(roots) != 1:
    raise ValueError(f'Expected the parameters of one network, got those of {sorted(roots)}.')
  return roots.pop()


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


def predictor(params: Params, spec: ModelSpec) -> Callable[[jax.Array], jax.Array]:
  """Returns a pure function: normalised images [N, H, W, 3] float32 -> logits [N, K] float32."""
  num_classes = params[f'{_root(params)}/~/linear']['w'].shape[1]
  network = hk.without_apply_rng(
    hk.transform(lambda x: zoo.create_model(spec, num_classes)(x, is_training=False)['logits'])
  )
  return lambda images: network.apply(params, images)


def export_stablehlo(
  path: str | pathlib.Path,
  params: Params,
  spec: ModelSpec,
  *,
  size: int | None = None,
  batch_size: int | None = None,
  platforms: tuple[str, ...] = ('cpu', 'cuda', 'tpu'),
) -> None:
  """Writes images -> logits as one file of StableHLO with its weights, by `jax.export`.

  Args:
    path: where to write.
    params: parameters, folded or not.
    spec: what they belong to.
    size: height and width of the images; None: the spec's test size.
    batch_size: number of images of a call; None: any.
    platforms: where it shall run.
  """
  size = size or spec.test_size
  batch = batch_size or jax_export.symbolic_shape('batch')[0]
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
  exported = jax_export.export(jax.jit(predictor(params, spec)), platforms=platforms)(images)
  path = pathlib.Path(path)
  temporary = path.with_name(f'.{path.name}.part')
  temporary.write_bytes(exported.serialize())
  temporary.replace(path)


def load_stablehlo(path: str | pathlib.Path) -> Callable[[jax.Array], jax.Array]:
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
