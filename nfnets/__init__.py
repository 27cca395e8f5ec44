"""Normalizer-free networks in JAX and Haiku."""

from nfnets import optim
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

__version__ = '0.1.0'

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
  'keep_freed_memory',
  'list_models',
  'load_pretrained',
  'optim',
  'weight_standardized',
]
