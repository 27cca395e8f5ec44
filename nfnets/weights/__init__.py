"""Weights on disk: safetensors, DeepMind's release and timm's files; published weights by name."""

from nfnets.weights.deepmind import load_deepmind
from nfnets.weights.fitting import count_classes, fit, rename_root
from nfnets.weights.formats import is_safetensors
from nfnets.weights.hub import (
  RUN_FILE,
  Pretrained,
  find_in_run,
  list_models,
  load_pretrained,
  locate,
)
from nfnets.weights.published import preprocessing_of
from nfnets.weights.timm import from_timm, to_timm
from nfnets.weights.tree import load, merge, read_metadata, save

__all__ = [
  'RUN_FILE',
  'Pretrained',
  'count_classes',
  'find_in_run',
  'fit',
  'from_timm',
  'is_safetensors',
  'list_models',
  'load',
  'load_deepmind',
  'load_pretrained',
  'locate',
  'merge',
  'preprocessing_of',
  'read_metadata',
  'rename_root',
  'save',
  'to_timm',
]
