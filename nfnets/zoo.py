"""Models by name: the only place where a string becomes a model.

| names | what they are |
|---|---|
| `F0`..`F7`, `F0+`..`F7+` | NFNets as published (arXiv 2102.06171) |
| `NF-ResNet-50`..`NF-ResNet-600` | NF-ResNets as published (arXiv 2101.08692) |
| `NF-RegNet-B0`..`NF-RegNet-B8` | NF-RegNets as published (arXiv 2101.08692) |
| `dm_nfnet_f0`, `nfnet_l0`, `eca_nfnet_l0`, `nf_resnet50`, `nf_regnet_b0`, ... | timm's |
| `BN-ResNet-50`..`BN-ResNet-600` | ResNet-v2 with batch normalisation (arXiv 1603.05027) |
| `BN-SE-ResNeXt-D-50`, `-101`, `-152` | also; NFNet began here (arXiv 2102.06171, section 4) |
| `BN-F0`..`BN-F7` | the NFNets with batch normalisation (arXiv 2102.06171, table 3) |
| `FixUp-ResNet-50`..`FixUp-ResNet-600` | ResNets without normalisation (arXiv 1901.09321) |
| `SkipInit-ResNet-50`..`SkipInit-ResNet-600` | also, pre-activation (arXiv 2002.10444) |
| `EfficientNet-B0`..`EfficientNet-B7` | as published (arXiv 1905.11946) |
| `WRN-16-4`, `WRN-40-4`, `WRN-28-10` | wide ResNets for private training (arXiv 2204.13650) |
| `SlowFast-NFNet-F0` | the network for sound, as published (arXiv 2111.12124) |
| `NFNet-F0-slow`, `NFNet-F0-fast` | its two trunks, each by itself |

Published networks have names in capitals; timm's names are in lower case and stand for timm's
functions. `NF-ResNet-50` and `nf_resnet50` are different functions, as are `NF-RegNet-B0` and
`nf_regnet_b0`, or `F0` and `nfnet_f0`; `dm_nfnet_f0` differs from `F0` only in the kind of GELU and
epsilon.

The networks with batch normalisation have running statistics: build them in
`hk.transform_with_state`.
"""

import difflib
import fnmatch
import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import nf_regnet, nf_resnet, nfnet, nfnet_light, sides, slow_fast
from nfnets.baselines import (
  BaselineSpec,
  efficientnet,
  join_state,
  resnet,
  unnormalized,
  wide_resnet,
)
from nfnets.sides import Sides
from nfnets.spec import SLOW_FAST, ModelSpec

AnySpec = ModelSpec | BaselineSpec


class Network(Protocol):
  """How a Haiku module of any family is called."""

  def __call__(self, images: jax.Array, is_training: bool) -> dict[str, jax.Array]:
    """Returns 'pool' [N, D] and 'logits' [N, K] of images [N, H, W, C]."""
    ...


# A spec's family -> its class.
_CLASSES: dict[str, type[hk.Module]] = {
  'NFNet': nfnet.NFNet,
  'NF_ResNet': nf_resnet.NFResNet,
  'NF_RegNet': nf_regnet.NFRegNet,
  'NFNetLight': nfnet_light.NFNetLight,
  SLOW_FAST: slow_fast.SlowFastNFNet,
  'BN_ResNet': resnet.ResNet,
  'FixUp_ResNet': unnormalized.FixUpResNet,
  'SkipInit_ResNet': unnormalized.SkipInitResNet,
  'EfficientNet': efficientnet.EfficientNet,
  'WideResNet': wide_resnet.WideResNet,
}

FAMILIES = tuple(_CLASSES)  # what the module of a network is called, unless it is given a name

# Families whose specs are not `ModelSpec`s.
_BASELINES: dict[str, type[BaselineSpec]] = {
  spec.FAMILY: spec
  for spec in (
    resnet.ResNetSpec,
    unnormalized.FixUpSpec,
    unnormalized.SkipInitSpec,
    efficientnet.EfficientNetSpec,
    wide_resnet.WideResNetSpec,
  )
}

_MODELS: dict[str, AnySpec] = {
  **nfnet.VARIANTS,
  **{name.replace('ResNet', 'NF-ResNet-'): s for name, s in nf_resnet.VARIANTS.items()},
  **{f'NF-RegNet-{name}': s for name, s in nf_regnet.VARIANTS.items()},
  **nfnet_light.VARIANTS,
  **{f'BN-{name}': spec for name, spec in resnet.VARIANTS.items()},
  **{f'FixUp-{name}': spec for name, spec in unnormalized.FIXUP_VARIANTS.items()},
  **{f'SkipInit-{name}': spec for name, spec in unnormalized.SKIPINIT_VARIANTS.items()},
  **{f'EfficientNet-{name}': spec for name, spec in efficientnet.VARIANTS.items()},
  **{f'WRN-{name}': spec for name, spec in wide_resnet.VARIANTS.items()},
  **{f'SlowFast-NFNet-{name}': spec for name, spec in slow_fast.VARIANTS.items()},
  **{f'NFNet-{name}': spec for name, spec in slow_fast.TRUNKS.items()},
}


_BY_LETTERS = {name.lower(): name for name in _MODELS}


def list_models(pattern: str = '*') -> list[str]:
  """Returns the names that match a shell-style pattern, e.g. 'F?+', in upper or lower case."""
  return [name for name in _MODELS if fnmatch.fnmatchcase(name.lower(), pattern.lower())]


def find_name(text: Any) -> str | None:
  """Returns the model's name that a text stands for, in any case; None if there is none."""
  return _BY_LETTERS.get(text.lower()) if isinstance(text, str) else None


def get_spec(name: str | AnySpec) -> AnySpec:
  """Returns the spec of a model's name, in upper or lower case; a spec is returned unchanged.

  Raises:
    ValueError: there is no such model.
  """
  if isinstance(name, AnySpec):
    return name
  found = find_name(name)
  if found is not None:
    return _MODELS[found]
  raise ValueError(_unknown(name))


def classifier_path(spec: AnySpec) -> str:
  """Returns the module path of a network's classifier."""
  return f'{spec.family}/~/linear'


def spec_from_dict(fields: Mapping[str, Any]) -> AnySpec:
  """Builds a spec of the family that its fields name, by default NFNet's, from its `to_dict`.

  Raises:
    ValueError: the fields do not describe a network.
  """
  return _BASELINES.get(fields.get('family'), ModelSpec).from_dict(fields)


def input_shape(spec: AnySpec, size: Sides | None = None) -> tuple[int, int, int]:
  """Returns (height, width, channels) of a network's images; of spectrograms (frames, bands, 1).

  Args:
    spec: the network.
    size: height and width; None: the spec's test size.
  """
  channels = spec.in_channels if isinstance(spec, ModelSpec) else 3
  return *sides.pair(size or spec.test_size), channels


def is_for_pictures(spec: AnySpec) -> bool:
  """Whether a network takes images of three channels."""
  return input_shape(spec)[-1] == 3


def create_model(name: str | AnySpec, num_classes: int | None = 1000, **overrides: Any) -> Network:
  """Builds a model by name. Call it inside `hk.transform`, as any Haiku module.

      network = hk.transform(lambda x: nfnets.create_model('F0')(x, is_training=False)['logits'])
      shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))

  Args:
    name: a name of `list_models()`, or a spec of any family.
    num_classes: number of logits; None, of normalizer-free networks: no classifier, only 'pool'.
    **overrides: arguments of the family's class (`drop_rate`, `activation`, ...).

  Returns:
    A Haiku module called as `(images, is_training)` -> `{'pool': [N, D], 'logits': [N, K]}`.

  Raises:
    ValueError: there is no such model.
  """
  spec = get_spec(name)
  return _CLASSES[spec.family](num_classes, spec, **overrides)


def parameter_shapes(
  name: str | AnySpec, num_classes: int
) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
  """Returns module path -> name -> shape and dtype of a model's parameters, without computing them.

  They include a baseline's running statistics, as in `nfnets.baselines.join_state`.

  Raises:
    ValueError: there is no such model.
  """

  def network(images: jax.Array) -> dict[str, jax.Array]:
    return create_model(name, num_classes)(images, is_training=False)

  # The parameters do not depend on the size of the images.
  images = jax.ShapeDtypeStruct((1, *input_shape(get_spec(name), 64)), jnp.float32)
  init = hk.transform_with_state(network).init
  return join_state(*jax.eval_shape(init, jax.random.key(0), images))


def _unknown(name: Any) -> str:
  """The message for an unknown name: what it may have meant, and where to find the names."""
  if isinstance(name, os.PathLike) or (isinstance(name, str) and os.path.isfile(name)):
    return (
      f'{os.fspath(name)!r} is a path and not the name of a model: nfnets.load_pretrained(path) '
      'reads weights together with the spec of their model.'
    )
  if not isinstance(name, str):
    hint = ': build one by nfnets.zoo.spec_from_dict' if isinstance(name, Mapping) else ''
    return f'A model is given by its name or a spec, got {type(name).__name__}{hint}.'

  def key(text: str) -> str:
    letters = re.sub('[^a-z0-9+]', '', text.lower())
    return re.sub('^(dm|bn)?(nfnet|nf)?(regnet)?(?=.)', '', letters)

  meant = [model for model in _MODELS if key(model) == key(name)]
  if len(meant) > 1:
    choices = ' or '.join(f'{model!r} ({_origin(model)})' for model in meant)
    return f'Unknown model {name!r}: use {choices}; they are different functions.'
  close = meant or [
    _BY_LETTERS[match]
    for match in difflib.get_close_matches(name.lower(), _BY_LETTERS, n=3, cutoff=0.5)
  ]
  return (
    f'Unknown model {name!r}: did you mean {" or ".join(close or list_models()[:3])}? '
    f'nfnets.list_models() names all {len(_MODELS)}.'
  )


def _origin(name: str) -> str:
  family = _MODELS[name].family
  if family in _BASELINES:
    return 'a baseline'
  return "timm's" if family == 'NFNetLight' else 'as published'
