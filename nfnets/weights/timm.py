"""Converts weights of timm's normalizer-free networks (PyTorch image models) to ours and back.

A timm file contains arrays but not the function that they belong to. Two differences do not show in
the shapes and are absorbed exactly: the epsilon of weight standardisation (by the gains), and the
place of the activation's gamma (by the gains of the first and the final convolution and by the
classifier). No gain can absorb a different padding or kind of shortcut; these are refused.
"""

import logging
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nfnets import activations, zoo
from nfnets.block_plan import plan_blocks
from nfnets.spec import Conventions, ModelSpec
from nfnets.weights import state_dicts
from nfnets.weights.fitting import check_channels, fit
from nfnets.weights.tree import Tree, merge

_LOG = logging.getLogger(__name__)

_BLOCK_CONVS = {
  'conv0': 'conv1',
  'conv1': 'conv2',
  'conv1b': 'conv2b',
  'conv2': 'conv3',
  'conv_shortcut': 'downsample.conv',
}


class _Pair(NamedTuple):
  """One array under both names."""

  key: str  # timm's
  module: str  # ours
  name: str
  layout: str  # a key of _TO_HAIKU and _TO_TIMM


# OIHW -> HWIO; (O, 1, 1, 1) -> (O,); (O, I) or (O, I, 1, 1) -> (I, O); (1, 1, k) -> (k, 1, 1).
_TO_HAIKU = {
  'conv': lambda a: a.transpose(2, 3, 1, 0),
  'gain': lambda a: a.reshape(-1),
  'linear': np.transpose,
  'linear_as_conv': lambda a: a.reshape(a.shape[:2]).T,
  'channels': np.transpose,
  'same': lambda a: a,
}
_TO_TIMM = {
  'conv': lambda a: a.transpose(3, 2, 0, 1),
  'gain': lambda a: a.reshape(-1, 1, 1, 1),
  'linear': np.transpose,
  'linear_as_conv': lambda a: a.T[:, :, None, None],
  'channels': np.transpose,
  'same': lambda a: a,
}
_RANKS = {'conv': 4, 'linear': 2, 'linear_as_conv': 4, 'channels': 3}


def from_timm(
  weights: str | os.PathLike | Mapping[str, Any],
  name_or_spec: str | ModelSpec,
  num_classes: int | None = None,
  *,
  conventions: Conventions | None = None,
) -> Tree:
  """Converts weights of a timm network, preserving the function.

  `F0`..`F6` take the weights of `dm_nfnet_f0`..`dm_nfnet_f6`; they have the tanh form of GELU that
  DeepMind trained them with, where timm has the erf form (our `dm_nfnet_f0`..). The other models
  with timm's names take the weights of that name.

  If all names have a common prefix (`module.` from data parallel training, `_orig_mod.` from
  torch.compile, `model.`, `backbone.`, or several), it is removed with a warning.

  Args:
    weights: a .safetensors file, or a state dict: name -> numpy array or CPU tensor.
    name_or_spec: the model to load into, as in `create_model`.
    num_classes: number of classes of the weights; None: that of their classifier. If they have no
      classifier (timm's num_classes=0), the rest is loaded with a warning.
    conventions: those of the timm network, if it was built with non-default options; None: those of
      `dm_nfnet` if there are skip gains, else those of timm's other networks.

  Returns:
    Parameters, module path -> name -> float32 numpy array: exactly those of the model (without
    the classifier, if the weights have none).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is not safetensors; the arrays are not the model's, in which case the
      message names what is missing, unexpected or of another shape; some are not finite; the first
      convolution is not for RGB; or the shapes may fit but the model would compute something else.
  """
  spec = _timm_spec(name_or_spec)
  pairs = {pair.key: pair for pair in _pairs(spec)}
  state = state_dicts.without_prefix(state_dicts.read(weights), next(iter(pairs)))
  has_skip_gains = any(key.endswith('.skipinit_gain') for key in state)
  source = conventions or _timm_conventions(has_skip_gains)
  if 'stages.0.0.conv1.gain' in state:  # else the merge below tells what the file holds instead
    _check_function(spec, source, has_skip_gains)
  stem, gain, *_ = pairs
  if stem in state and state[stem].ndim == 4:
    check_channels(state[stem].shape[1], stem, gain)
  shapes = zoo.parameter_shapes(spec, num_classes or len(state.get('head.fc.bias', range(1000))))
  if not num_classes and not any(key.startswith('head.fc.') for key in state):
    shapes.pop(zoo.classifier_path(spec))
    _LOG.warning('the weights have no classifier (head.fc): all other layers are converted')
  tree: Tree = {}
  for key, array in state.items():
    pair = pairs.get(key)
    if pair is None or array.ndim != _RANKS.get(pair.layout, array.ndim):
      module, _, name = key.rpartition('.')  # shown under timm's own name
      tree.setdefault(module, {})[name] = array
    else:
      tree.setdefault(pair.module, {})[pair.name] = _TO_HAIKU[pair.layout](array)
  return _rescale(merge(shapes, tree), spec, source, spec.conventions)


def to_timm(
  params: Mapping[str, Mapping[str, Any]],
  name_or_spec: str | ModelSpec,
  *,
  conventions: Conventions | None = None,
) -> dict[str, np.ndarray]:
  """Converts parameters to the state dict of the timm network with the same function.

  `safetensors.numpy.save_file(to_timm(...), path, metadata={'format': 'pt'})` makes the file that
  timm reads with `checkpoint_path=path`.

  Args:
    params: module path -> name -> array, all parameters of the model.
    name_or_spec: their model, as in `create_model`.
    conventions: as in `from_timm`.

  Returns:
    timm's name -> contiguous float32 numpy array in PyTorch's layout. Note that timm's `dm_nfnet`
    models use the erf form of GELU ('gelu_exact' here), and F0..F6 the tanh form.

  Raises:
    ValueError: params is not the model's tree, or no timm network computes this function.
  """
  spec = _timm_spec(name_or_spec)
  target = conventions or _timm_conventions(spec.skip_gain)
  _check_function(spec, target, spec.skip_gain)
  params = _rescale(fit(params, spec), spec, spec.conventions, target)
  return {
    pair.key: np.array(_TO_TIMM[pair.layout](params[pair.module][pair.name]), np.float32, order='C')
    for pair in _pairs(spec)
    if pair.module in params  # the classifier may be missing
  }


def _timm_spec(name_or_spec: str | ModelSpec) -> ModelSpec:
  """The spec of a network that timm can build."""
  spec = zoo.get_spec(name_or_spec)
  if not isinstance(spec, ModelSpec):
    raise ValueError(
      f'{spec.family} has batch normalisation, and only normalizer-free networks are converted '
      f'from and to timm.'
    )
  if spec.conventions.folded:
    raise ValueError(
      'This network is folded, which leaves plain convolutions, and timm standardises the weights '
      'of its own: convert the network as it was before fold.'
    )
  return spec


def _timm_conventions(has_skip_gains: bool) -> Conventions:
  """What timm gives its networks with skip gains (DeepMind's) and all others."""
  return zoo.get_spec('dm_nfnet_f0' if has_skip_gains else 'nfnet_f0').conventions


def _check_function(spec: ModelSpec, timm: Conventions, has_skip_gains: bool) -> None:
  """Refuses a pair of networks whose shapes may be equal but whose functions differ."""
  hint = "models with timm's own name (nfnets.list_models('*n[ef]*net*')) have timm's function."
  if spec.shortcut != 'average_pool':
    raise ValueError(
      f"This model's shortcut is a {spec.shortcut}, and timm's networks average-pool before a 1x1 "
      f"convolution: the shapes may fit but the function differs. Use 'nf_resnet50' or the like: "
      + hint
    )
  if spec.conventions.padding != timm.padding:
    raise ValueError(
      f"This model has padding {spec.conventions.padding!r}, and timm's networks "
      f'{"with" if has_skip_gains else "without"} skip gains have {timm.padding!r}: the shapes may '
      'fit but the function differs. Pass conventions if yours was built with other options; '
      + hint
    )


def _pairs(spec: ModelSpec) -> list[_Pair]:
  """Every array of the network, in timm's order."""
  root = f'{spec.family}/~'
  pairs = []
  for i in range(len(spec.stem)):
    module = f'{root}/{spec.names.stem_conv.format(i)}'
    pairs += _conv_pairs(f'stem.conv{i + 1}' if len(spec.stem) > 1 else 'stem.conv', module)
  for number, plan in enumerate(plan_blocks(spec)):
    index = number - sum(spec.depth[: plan.stage])  # in its stage
    block = f'{root}/{spec.names.block}' + (f'_{number}' if number else '')
    pairs += _block_pairs(spec, plan.is_transition, f'stages.{plan.stage}.{index}', block)
  if spec.final_conv:
    pairs += _conv_pairs('final_conv', f'{root}/final_conv')
  return [*pairs, *_linear_pairs('head.fc', f'{root}/linear', 'linear')]


def _block_pairs(spec: ModelSpec, is_transition: bool, prefix: str, block: str) -> list[_Pair]:
  """The arrays of one block."""
  pairs = []
  for ours, theirs in _BLOCK_CONVS.items():
    if (ours != 'conv1b' or spec.two_convs) and (ours != 'conv_shortcut' or is_transition):
      pairs += _conv_pairs(f'{prefix}.{theirs}', f'{block}/~/{ours}')
  attention = f'{prefix}.attn_last' if spec.attention_position == 'last' else f'{prefix}.attn'
  if spec.attention == 'efficient':
    module = f'{block}/~/efficient_channel_attention'
    pairs.append(_Pair(f'{attention}.conv.weight', module, 'w', 'channels'))
  elif spec.se_ratio:
    module = f'{block}/~/squeeze_excite/~/linear'
    pairs += _linear_pairs(f'{attention}.fc1', module, 'linear_as_conv')
    pairs += _linear_pairs(f'{attention}.fc2', f'{module}_1', 'linear_as_conv')
  if spec.skip_gain:
    pairs.append(_Pair(f'{prefix}.skipinit_gain', block, 'skip_gain', 'same'))
  return pairs


def _conv_pairs(prefix: str, module: str) -> list[_Pair]:
  return [
    _Pair(f'{prefix}.weight', module, 'w', 'conv'),
    _Pair(f'{prefix}.gain', module, 'gain', 'gain'),
    _Pair(f'{prefix}.bias', module, 'bias', 'same'),
  ]


def _linear_pairs(prefix: str, module: str, layout: str) -> list[_Pair]:
  return [
    _Pair(f'{prefix}.weight', module, 'w', layout),
    _Pair(f'{prefix}.bias', module, 'b', 'same'),
  ]


def _rescale(params: Tree, spec: ModelSpec, source: Conventions, target: Conventions) -> Tree:
  """Makes gains and classifier give the same function under the target's conventions.

  A convolution multiplies by gain * gamma / divisor(w), and an activation by gamma, each only where
  its convention has it. Most convolutions follow an activation and meet gamma once either way; the
  first and the final one follow none, and the pooled activation meets no convolution.
  """
  gamma = activations.get(spec.activation).gamma
  factor = (gamma if source.gamma_in_conv else 1.0) / (gamma if target.gamma_in_conv else 1.0)
  root = f'{spec.family}/~'
  after_no_activation = (f'{root}/{spec.names.stem_conv.format(0)}', f'{root}/final_conv')
  out = {module: dict(entries) for module, entries in params.items()}
  for module, entries in out.items():
    if 'gain' in entries:
      scale = _divisor(entries['w'], target) / _divisor(entries['w'], source)
      scale = scale * factor if module in after_no_activation else scale
      entries['gain'] = (entries['gain'] * scale).astype(entries['gain'].dtype)
  classifier = out.get(zoo.classifier_path(spec))
  if classifier:
    classifier['w'] = (classifier['w'] / factor).astype(classifier['w'].dtype)
  return out


def _divisor(w: np.ndarray, conventions: Conventions) -> np.ndarray:
  """What standardisation divides w [H, W, I, O] by, float64 [O]; see `nfnets.layers`."""
  fan_in = math.prod(w.shape[:-1])
  variance = np.var(w, axis=(0, 1, 2), dtype=np.float64)
  if conventions.epsilon_added_to_variance:
    return np.sqrt(fan_in * (variance + conventions.epsilon))
  return np.sqrt(np.maximum(fan_in * variance, conventions.epsilon))
