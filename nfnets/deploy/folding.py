"""Folding a trained network into plain convolutions.

In evaluation everything that makes a network normalizer-free is constant: standardised weights,
gains, gamma, beta, alpha, skip gains and the attention's factor of 2 are all folded into the
convolutions. The running statistics of batch normalisation are folded in the same way.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from nfnets import activations, baselines, slow_fast, weights, zoo
from nfnets.baselines import BaselineSpec, WideResNetSpec
from nfnets.block_plan import BlockPlan, plan_blocks
from nfnets.execution import standardize
from nfnets.spec import ModelSpec

Params = Mapping[str, Mapping[str, Any]]

# A branch with a smaller factor is off: float32 could not hold its values, nor one over the factor.
_SMALLEST = 1e-30


def fold(params: Params, spec: zoo.AnySpec) -> tuple[dict[str, dict[str, np.ndarray]], zoo.AnySpec]:
  """Folds a network of any family into plain convolutions.

      params, spec, _ = nfnets.load_pretrained('F0')
      predict = jax.jit(nfnets.deploy.predictor(*nfnets.deploy.fold(params, spec)))

  Args:
    params: its parameters, module path -> name -> float array; for a batch-normalised network with
      its state (`baselines.join_state`). The classifier may be missing.
    spec: the network.

  Returns:
    Parameters, float32, and the spec, which says that it is folded: a network of the same class
    with equal outputs, fewer parameters and fewer operations. It can be saved, loaded and called
    like any other, but not trained further with the recipe of its family. A normalizer-free
    network then has `w` and `b` only, a batch-normalised one no state; the first normalisation of
    a ResNet-v2's blocks and its last one follow no convolution and become a scale and an offset.
    Group normalisation depends on the picture and stays.

  Raises:
    ValueError: it is folded already, or the parameters are not those of the spec, see
      `weights.fit`.
  """
  if is_folded(spec):
    raise ValueError('This network is already folded: use it as it is.')
  params = weights.fit(params, spec)
  if isinstance(spec, WideResNetSpec):
    return _fold_wide(params, spec)
  if isinstance(spec, BaselineSpec):
    return baselines.fold(params, spec)
  folded: dict[str, dict[str, np.ndarray]] = {}
  if spec.fast is None:
    _fold_trunk(params, spec.family, spec, folded)
  else:
    _fold_trunk(params, slow_fast.fast_path(spec), spec.fast_trunk, folded)
    _fold_trunk(params, slow_fast.slow_path(spec), spec, folded)
    for stage in range(len(spec.depth)):
      # No activation comes before it.
      _fold_conv(params, slow_fast.lateral_path(spec, stage), spec, folded, 1.0)
  classifier = zoo.classifier_path(spec)
  if classifier in params:
    folded[classifier] = _float32(params[classifier])
  conventions = dataclasses.replace(spec.conventions, folded=True)
  return folded, spec.replace(conventions=conventions, skip_gain=False)


def is_folded(spec: zoo.AnySpec) -> bool:
  """Whether a spec describes a folded network."""
  return spec.folded if isinstance(spec, BaselineSpec) else spec.conventions.folded


def _fold_trunk(
  params: Params, root: str, spec: ModelSpec, folded: dict[str, dict[str, np.ndarray]]
) -> None:
  """Folds stem, blocks and final convolution of the network at a module path."""
  gamma = 1.0 if spec.conventions.gamma_in_conv else activations.get(spec.activation).gamma

  def conv(path: str, in_scale: float, out_scale: float = 1.0) -> None:
    _fold_conv(params, path, spec, folded, in_scale, out_scale)

  names = spec.names
  for i in range(len(spec.stem)):
    conv(f'{root}/~/{names.stem_conv.format(i)}', gamma if i else 1.0)
  for i, plan in enumerate(plan_blocks(spec)):
    block = f'{root}/~/{names.block}' + (f'_{i}' if i else '')
    _fold_block(params, block, plan, spec, gamma, conv, folded)
  if spec.final_conv:
    conv(f'{root}/~/final_conv', 1.0)  # no activation comes before it


def _fold_conv(
  params: Params,
  path: str,
  spec: ModelSpec,
  folded: dict[str, dict[str, np.ndarray]],
  in_scale: float,
  out_scale: float = 1.0,
) -> None:
  """Standardises a convolution whose input lost a factor and whose output gains one."""
  folded[path] = {
    'w': _standardized(params, path, spec) * np.float32(in_scale * out_scale),
    'b': np.asarray(params[path]['bias'], np.float32) * np.float32(out_scale),
  }


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


def _fold_wide(params: Params, spec: WideResNetSpec) -> tuple[dict[str, Any], WideResNetSpec]:
  """Folds the standardisation of a wide ResNet's convolutions."""
  folded = {path: _float32(entries) for path, entries in params.items()}
  for path, entries in params.items():
    if 'gain' in entries:
      w, gain = (jnp.asarray(entries[name], jnp.float32) for name in ('w', 'gain'))
      folded[path] = {'w': np.asarray(standardize(w, gain)), 'b': folded[path]['bias']}
  return folded, spec.replace(folded=True)


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
