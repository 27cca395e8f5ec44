"""Weights on disk: trees of arrays as safetensors."""

from nfnets.weights.tree import load, merge, save

__all__ = ['load', 'merge', 'save']
