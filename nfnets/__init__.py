"""Normalizer-free networks in JAX and Haiku."""

from nfnets import optim
from nfnets.layers import WSConv1D, WSConv2D, WSConv2DTranspose, WSConv3D
from nfnets.nfnet import NFNet
from nfnets.optim import adaptive_grad_clip
from nfnets.spec import ModelSpec
from nfnets.zoo import create_model, list_models

__version__ = '0.1.0'

__all__ = [
  'ModelSpec',
  'NFNet',
  'WSConv1D',
  'WSConv2D',
  'WSConv2DTranspose',
  'WSConv3D',
  'adaptive_grad_clip',
  'create_model',
  'list_models',
  'optim',
]
