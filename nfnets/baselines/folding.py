"""Folding batch normalisation into convolutions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets.baselines.common import BaselineSpec, Tree, split_state

_NORM = '/~/batch_norm'  # of Haiku's module in ours


def fold(tree: Mapping[str, Mapping[str, Any]], spec: BaselineSpec) -> tuple[Tree, BaselineSpec]:
  """Folds running statistics, scales and offsets into the convolutions before them.

  In evaluation a normalisation is x * factor + offset with constants. After a convolution, the
  factor goes into the weights. After a sum, as at the beginning of a ResNet-v2's blocks, the two
  vectors remain.

  Args:
    tree: parameters and state, of `join_state`, complete.
    spec: what they belong to.

  Returns:
    Parameters (float32; no state) and the spec with `folded`: a network of the same class.
  """
  params, state = split_state(tree)
  folded = {
    module: {name: np.asarray(value, np.float32) for name, value in entries.items()}
    for module, entries in params.items()
    if not module.endswith(_NORM)
  }
  for module, entries in params.items():
    if not module.endswith(_NORM):
      continue
    path = module.removesuffix(_NORM)
    mean, variance = (
      np.asarray(state[f'{module}/~/{name}']['average'], np.float64).reshape(-1)
      for name in ('mean_ema', 'var_ema')
    )
    scale, offset = (np.asarray(entries[n], np.float64).reshape(-1) for n in ('scale', 'offset'))
    factor = scale / np.sqrt(variance + spec.NORM_EPS)  # [C]
    folded[path] = {'offset': np.float32(offset - mean * factor)}
    parent, _, norm = path.rpartition('/')
    conv = spec.conv_before(norm)
    if conv is None:
      folded[path]['scale'] = np.float32(factor)
    else:
      w = folded[f'{parent}/{conv}']['w']  # [k, k, I / groups, C]
      folded[f'{parent}/{conv}'] = {'w': np.float32(w * factor)}
  return folded, spec.replace(folded=True)
