"""The small networks that the claims are tried on, by name."""

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax

from nfnets import zoo
from scripts import signal_networks

_COMMON = {
  'width': (32, 64, 128),
  'stride': (1, 2, 2),
  'stem': ((3, 2, 32),),
  'stem_pool': False,
  'stochdepth_rate': 0.0,
}
SMALLEST, SHALLOW, DEEP = (1, 1, 1), (2, 2, 2), (4, 4, 4)  # blocks of each stage

# Name -> the ResNet of the zoo, and what intercepts its layers.
_NETWORKS: dict[str, tuple[str, Callable[..., Any] | None]] = {
  'BN': ('BN-ResNet-50', None),
  'NF': ('NF-ResNet-50', None),
  'BN without BN': ('BN-ResNet-50', signal_networks.no_norm),
  'NF without standardisation': ('NF-ResNet-50', signal_networks.unstandardized),
  'NF without gamma': ('NF-ResNet-50', signal_networks.no_gamma),
}


def spec_of(name: str, depth: tuple[int, ...] = SHALLOW) -> zoo.AnySpec:
  """Returns the spec of a network: a ResNet-v2 with relu, three stages of 32 to 128 channels."""
  return zoo.get_spec(_NETWORKS[name][0]).replace(depth=depth, **_COMMON)


def function(name: str, num_classes: int, depth: tuple[int, ...] = SHALLOW) -> Callable[..., Any]:
  """Returns (images [N, H, W, 3], is_training, ...) -> {'pool', 'logits'}, to be transformed."""
  spec, interceptor = spec_of(name, depth), _NETWORKS[name][1]

  def network(images: jax.Array, is_training: bool, **options: Any) -> dict[str, jax.Array]:
    return zoo.create_model(spec, num_classes)(images, is_training, **options)

  return signal_networks.intercepted(network, interceptor) if interceptor else network


def build(name: str, num_classes: int, depth: tuple[int, ...] = SHALLOW) -> hk.TransformedWithState:
  """Returns the same as pure functions."""
  return hk.transform_with_state(function(name, num_classes, depth))
