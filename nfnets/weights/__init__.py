"""Weights on disk: safetensors, DeepMind's release, timm's files; published weights by name."""

from nfnets.weights.deepmind import load_deepmind
from nfnets.weights.hub import Pretrained, load_pretrained
from nfnets.weights.timm import from_timm, to_timm
from nfnets.weights.tree import is_safetensors, load, merge, read_metadata, save

__all__ = [
  'Pretrained',
  'from_timm',
  'is_safetensors',
  'load',
  'load_deepmind',
  'load_pretrained',
  'merge',
  'read_metadata',
  'save',
  'to_timm',
]
