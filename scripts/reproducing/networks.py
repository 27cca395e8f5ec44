"""The small networks that the claims are tried on, by name."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from nfnets import ModelSpec, zoo
from scripts import signal_networks

_COMMON = {
  'width': (32, 64, 128),
  'stride': (1, 2, 2),
  'stem': ((3, 2, 32),),
  'stem_pool': False,
  'stochdepth_rate': 0.0,
}
SMALLEST, SHALLOW, DEEP = (1, 1, 1), (2, 2, 2), (4, 4, 4)  # blocks of each stage
DESIGN_DEPTH = (1, 2, 4, 2)

# [NFNet] section 4: how a network of SE-ResNeXt-D's shape becomes an NFNet, at a sixteenth of the
# widths and two thirds of the depth.
_DESIGN = ModelSpec(
  width=(16, 32, 64, 128),
  depth=DESIGN_DEPTH,
  group_width=8,
  two_convs=False,
  stem=((3, 1, 16), (3, 2, 16)),
  stochdepth_rate=0.0,
)
_WIDER = _DESIGN.replace(width=(16, 32, 96, 96), stem=_DESIGN.stem)
DESIGN_STEPS = {
  'first': _DESIGN,
  'wider': _WIDER,
  'second convolution': _WIDER.replace(two_convs=True),
}

# Name -> the ResNet of the zoo, and what intercepts its layers.
_NETWORKS: dict[str, tuple[str, Callable[..., Any] | None]] = {
  'BN': ('BN-ResNet-50', None),
  'NF': ('NF-ResNet-50', None),
  'BN without BN': ('BN-ResNet-50', signal_networks.no_norm),
  'NF without standardisation': ('NF-ResNet-50', signal_networks.unstandardized),
  'NF without gamma': ('NF-ResNet-50', signal_networks.no_gamma),
}


def spec_of(name: str, depth: tuple[int, ...] = SHALLOW) -> zoo.AnySpec:
  """Returns the spec of a network.

  A ResNet-v2 with relu, three stages of 32 to 128 channels; or a step of the NFNets' design.
  """
  if name in DESIGN_STEPS:
    return DESIGN_STEPS[name].replace(depth=depth)
  return zoo.get_spec(_NETWORKS[name][0]).replace(depth=depth, **_COMMON)


def function(name: str, num_classes: int, depth: tuple[int, ...] = SHALLOW) -> Callable[..., Any]:
  """Returns (images [N, H, W, 3], is_training, ...) -> {'pool', 'logits'}, to be transformed."""
  spec, interceptor = spec_of(name, depth), _NETWORKS.get(name, (None, None))[1]

  def network(images: jax.Array, is_training: bool, **options: Any) -> dict[str, jax.Array]:
    return zoo.create_model(spec, num_classes)(images, is_training, **options)

  return signal_networks.intercepted(network, interceptor) if interceptor else network


def build(name: str, num_classes: int, depth: tuple[int, ...] = SHALLOW) -> hk.TransformedWithState:
  """Returns the same as pure functions."""
  return hk.transform_with_state(function(name, num_classes, depth))
