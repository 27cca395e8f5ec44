"""The names of ImageNet's classes."""

import functools
import importlib.resources


@functools.cache
def imagenet() -> tuple[str, ...]:
  """Returns the names of the 1000 classes of ILSVRC 2012, in the order of all published weights.

  The order is that of the sorted WordNet identifiers. Each name is one of WordNet's for its class,
  and no two are equal: where WordNet has only one name for two classes, a word in brackets
  distinguishes them: 'crane (bird)', 'crane (machine)'.
  """
  data = importlib.resources.files('nfnets').joinpath('imagenet_classes.txt')
  return tuple(data.read_text(encoding='utf-8').splitlines())
