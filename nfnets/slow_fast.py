"""The slow-fast NFNet for sound: two normalizer-free trunks on one spectrogram (arXiv 2111.12124).

The wide, slow trunk sees every fourth frame, the narrow, fast one all of them; before each stage, a
convolution in time brings the fast trunk's map into the slow one's. Blocks, stems and heads are
those of `nfnets.backbone`, with kernels along time or along frequency alone. As published, the
activations of the lateral convolutions and the last ones are not scaled by gamma, which they are in
each trunk by itself.

`VARIANTS` has the published networks: the whole, and each trunk as an NFNet of its own.
"""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets import activations, nfnet
from nfnets.backbone import Classifier, NFBackbone, check_images, standardized_conv
from nfnets.execution import SpaceToDepth
from nfnets.execution.space_to_depth import as_map
from nfnets.spec import SLOW_FAST, FastTrunk, ModelSpec, StemConv, find_variant, given

TRUNK = 'NFNet'  # Haiku's name of the fast trunk; the slow one is the second of this name


def _stem(width: int, first_kernel: tuple[int, int]) -> tuple[StemConv, ...]:
  """The four convolutions before a first stage of `width` channels."""
  kernels = (first_kernel, (1, 3), (1, 3), (3, 3))
  channels = (width // 16, width // 8, width // 4, width // 2)
  return tuple(zip(kernels, (2, 1, 1, 2), channels, strict=True))


_SLOW = ModelSpec(
  width=nfnet.WIDTH,
  depth=nfnet.DEPTH,
  in_channels=1,
  stem=_stem(nfnet.WIDTH[0], (1, 3)),
  stride=(1, (1, 2), (1, 2), (1, 2)),  # time is not reduced after the stem
  kernel=(1, 1, (3, 1), (3, 1)),
  second_kernel=((1, 3),) * 4,
  train_size=(400, 128),
  test_size=(400, 128),
)

_FAST = FastTrunk(
  width=(32, 64, 192, 192),
  stem=_stem(32, (3, 3)),
  group_width=16,
  kernel=((3, 1),) * 4,
  second_kernel=((1, 3),) * 4,
  lateral_width=(64, 256, 512, 1024),
)

_WHOLE = dataclasses.replace(_SLOW, family=SLOW_FAST, fast=_FAST)

VARIANTS: dict[str, ModelSpec] = {'F0': _WHOLE}
TRUNKS: dict[str, ModelSpec] = {'F0-slow': _SLOW, 'F0-fast': _WHOLE.fast_trunk}


def fast_path(spec: ModelSpec) -> str:
  """Returns the module path of a slow-fast network's fast trunk."""
  return f'{spec.family}/~/{TRUNK}'


def slow_path(spec: ModelSpec) -> str:
  """Returns the module path of its slow trunk."""
  return f'{fast_path(spec)}_1'


def lateral_path(spec: ModelSpec, stage: int) -> str:
  """Returns the module path of its convolution before a stage, numbered from 0."""
  return f'{spec.family}/~/fuse_fast2_slow' + (f'_{stage}' if stage else '') + '/~/conv_f2s'


class FuseFast2Slow(hk.Module):
  """The lateral connection before a stage of the slow trunk."""

  def __init__(self, stage: int, spec: ModelSpec, name: str = 'fuse_fast2_slow'):
    """Builds the connection before a stage, numbered from 0, of a slow-fast network."""
    super().__init__(name=name)
    self.activation = activations.scaled(spec.activation).unscaled()
    kernel, stride = (spec.fast.lateral_kernel, 1), (spec.fast.frames, 1)
    self.conv = standardized_conv(spec, spec.lateral_width(stage), kernel, stride, name='conv_f2s')

  def __call__(self, slow: jax.Array, fast: jax.Array) -> jax.Array:
    """Joins the maps [N, time, mel, C], in time one to `frames`, along the channels."""
    return jnp.concatenate([slow, self.activation(self.conv(fast))], axis=-1)


class SlowFastNFNet(hk.Module):
  """A slow-fast network called as `(spectrograms, is_training)` -> `{'pool', 'logits'}`.

      def forward(spectrograms, is_training):
        return nfnets.SlowFastNFNet(num_classes=None)(spectrograms, is_training)['pool']

      network = hk.transform(forward)

  `pool` holds the fast trunk's features and then the slow one's, 384 + 3072.
  """

  def __init__(
    self,
    num_classes: int | None,
    variant: str | ModelSpec = 'F0',
    se_ratio: float | None = None,
    alpha: float | None = None,
    stochdepth_rate: float | None = None,
    drop_rate: float | None = None,
    activation: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = SLOW_FAST,
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits; None: no classifier, only 'pool', as published.
      variant: 'F0' or a `ModelSpec` of this family.
      se_ratio: hidden width of squeeze-excite relative to its input; 0: none.
      alpha: scale of the residual branches.
      stochdepth_rate: stochastic depth rate that the last block of each trunk approaches.
      drop_rate: dropout before the classifier.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2).
      name: Haiku module name; the published trees need 'slow_fast_nf_net'.

    Raises:
      ValueError: unknown variant or activation, or a spec of another family.
    """
    super().__init__(name=name)
    changes = given(
      se_ratio=se_ratio,
      alpha=alpha,
      stochdepth_rate=stochdepth_rate,
      drop_rate=drop_rate,
      activation=activation,
    )
    self.spec = spec = find_variant(variant, VARIANTS, SLOW_FAST).replace(**changes)
    self.num_stages = len(spec.depth)
    self.fast = NFBackbone(None, spec.fast_trunk, name=TRUNK)
    self.slow = NFBackbone(None, spec, name=TRUNK)
    self.fuse = [FuseFast2Slow(stage, spec) for stage in range(self.num_stages)]
    self.activation = activations.scaled(spec.activation).unscaled()
    self.classify = Classifier(num_classes, spec, fc_init)

  def features(
    self, images: jax.Array | SpaceToDepth, is_training: bool = False
  ) -> dict[str, jax.Array]:
    """Returns the maps of the stems and of each stage, without the head.

    Args:
      images: [N, time, mel, 1] normalised spectrograms.
      is_training: whether stochastic depth is active (then a random key is needed).

    Returns:
      {'stem', 'stage0', ...} of the slow trunk and {'fast_stem', 'fast_stage0', ...} of the other:
      [N, time, mel, C], before the next activation.
    """
    images = as_map(images)
    window = (1, self.spec.fast.frames, 1, 1)
    every = hk.max_pool(images, window, window, 'SAME')
    maps = {'fast_stem': self.fast.stem(images), 'stem': self.slow.stem(every)}
    fast, slow = maps['fast_stem'], maps['stem']
    for stage, fuse in enumerate(self.fuse):
      slow = fuse(slow, fast)
      fast = maps[f'fast_stage{stage}'] = self.fast.run_stage(stage, fast, is_training)
      slow = maps[f'stage{stage}'] = self.slow.run_stage(stage, slow, is_training)
    return maps

  def __call__(self, images: jax.Array | SpaceToDepth, is_training: bool) -> dict[str, jax.Array]:
    """Embeds and classifies spectrograms.

    Args:
      images: [N, time, mel, 1] normalised spectrograms of any size, float32 or bfloat16;
        `nfnets.audio` makes them of sounds.
      is_training: whether dropout and stochastic depth are active (then a random key is needed).

    Returns:
      {'pool': [N, D] pooled features, 'logits': [N, K]}, in the images' dtype; no logits without a
      classifier.
    """
    check_images(images)
    maps = self.features(images, is_training)
    last = f'stage{self.num_stages - 1}'
    fast = self.fast.pool(maps[f'fast_{last}'], self.activation)
    slow = self.slow.pool(maps[last], self.activation)
    return self.classify(jnp.concatenate([fast, slow], axis=-1), is_training)
