"""Normalizer-free networks in JAX and Haiku."""

import importlib
from typing import TYPE_CHECKING, Any

from nfnets import execution, optim, weights
from nfnets.classifier import Classifier
from nfnets.convert import weight_standardized
from nfnets.host_memory import keep_freed_memory
from nfnets.layers import WSConv1D, WSConv2D, WSConv2DTranspose, WSConv3D
from nfnets.nf_regnet import NFRegNet
from nfnets.nf_resnet import NFResNet
from nfnets.nfnet import NFNet
from nfnets.nfnet_light import NFNetLight
from nfnets.optim import adaptive_grad_clip
from nfnets.spec import ModelSpec
from nfnets.weights import load_pretrained
from nfnets.zoo import create_model, list_models

if TYPE_CHECKING:
  from nfnets import deploy, flops, initialization, mean_field, signal_propagation

__version__ = '0.1.0'

# Modules that are loaded when they are first asked for.
_LAZY = ('deploy', 'flops', 'initialization', 'mean_field', 'signal_propagation')

__all__ = [
  'Classifier',
  'ModelSpec',
  'NFNet',
  'NFNetLight',
  'NFRegNet',
  'NFResNet',
  'WSConv1D',
  'WSConv2D',
  'WSConv2DTranspose',
  'WSConv3D',
  'adaptive_grad_clip',
  'create_model',
  'deploy',
  'execution',
  'flops',
  'initialization',
  'keep_freed_memory',
  'list_models',
  'load_pretrained',
  'mean_field',
  'optim',
  'signal_propagation',
  'weight_standardized',
  'weights',
]


def __getattr__(name: str) -> Any:
  if name in _LAZY:
    return importlib.import_module(f'nfnets.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return [*__all__, '__version__']
