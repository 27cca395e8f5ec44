"""Normalizer-free networks in JAX and Haiku."""

import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from typing import Any

  from nfnets import (
    audio,
    deploy,
    execution,
    flops,
    inference,
    initialization,
    mean_field,
    optim,
    signal_propagation,
    sound_files,
    weights,
  )
  from nfnets.classifier import Classifier
  from nfnets.convert import weight_standardized
  from nfnets.embedder import Embedder
  from nfnets.host_memory import keep_freed_memory
  from nfnets.layers import WSConv1D, WSConv2D, WSConv2DTranspose, WSConv3D
  from nfnets.nf_regnet import NFRegNet
  from nfnets.nf_resnet import NFResNet
  from nfnets.nfnet import NFNet
  from nfnets.nfnet_light import NFNetLight
  from nfnets.optim import adaptive_grad_clip
  from nfnets.slow_fast import SlowFastNFNet
  from nfnets.spec import ModelSpec
  from nfnets.weights import list_models, load_pretrained
  from nfnets.zoo import create_model

__version__ = '0.1.0'

__all__ = [
  'Classifier',
  'Embedder',
  'ModelSpec',
  'NFNet',
  'NFNetLight',
  'NFRegNet',
  'NFResNet',
  'SlowFastNFNet',
  'WSConv1D',
  'WSConv2D',
  'WSConv2DTranspose',
  'WSConv3D',
  'adaptive_grad_clip',
  'audio',
  'create_model',
  'deploy',
  'execution',
  'flops',
  'inference',
  'initialization',
  'keep_freed_memory',
  'list_models',
  'load_pretrained',
  'mean_field',
  'optim',
  'signal_propagation',
  'sound_files',
  'weight_standardized',
  'weights',
]

# Where the names are that are no modules. All is loaded when it is first asked for, so that the
# command `nfnets` answers before JAX has started.
_HOMES = {
  'Classifier': 'classifier',
  'Embedder': 'embedder',
  'ModelSpec': 'spec',
  'NFNet': 'nfnet',
  'NFNetLight': 'nfnet_light',
  'NFRegNet': 'nf_regnet',
  'NFResNet': 'nf_resnet',
  'SlowFastNFNet': 'slow_fast',
  'WSConv1D': 'layers',
  'WSConv2D': 'layers',
  'WSConv2DTranspose': 'layers',
  'WSConv3D': 'layers',
  'adaptive_grad_clip': 'optim',
  'create_model': 'zoo',
  'keep_freed_memory': 'host_memory',
  'list_models': 'weights',
  'load_pretrained': 'weights',
  'weight_standardized': 'convert',
}

if not TYPE_CHECKING:  # a type checker would take any name for one of the library's

  def __getattr__(name: str) -> 'Any':
    if name in _HOMES:
      value = globals()[name] = getattr(importlib.import_module(f'nfnets.{_HOMES[name]}'), name)
      return value
    if not name.startswith('_') and importlib.util.find_spec(f'nfnets.{name}'):
      return importlib.import_module(f'nfnets.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*__all__, '__version__']
