"""The normalizer-free networks of timm (PyTorch image models), with timm's names and functions.

They are NFNets with different activation placement, padding and epsilon (`CONVENTIONS`), their
light relatives ('l0', and 'eca' with efficient channel attention), and NF-ResNets and NF-RegNets
that differ from the published ones: an average-pool shortcut, no skip gain, widths rounded to
eights. Sizes are those that timm trains and evaluates at. As in timm, dropout and stochastic depth
are off by default, except that 'dm_nfnet' models keep the values that DeepMind trained them with.
"""

import dataclasses

import haiku as hk

from nfnets import nf_regnet, nf_resnet, nfnet
from nfnets.backbone import NFBackbone
from nfnets.spec import Conventions, ModelSpec, find_variant, given

CONVENTIONS = Conventions(
  padding='symmetric',
  gamma_in_conv=True,
  epsilon=1e-5,
  epsilon_added_to_variance=True,
  channel_multiple=8,
  stochdepth_rescale=True,
  stochdepth_reaches_rate=True,
)

# Of timm's 'dm_nfnet' models, which hold DeepMind's weights.
DEEPMIND_CONVENTIONS = dataclasses.replace(CONVENTIONS, padding='same', gamma_in_conv=False)

_F = ModelSpec(
  family='NFNetLight',
  conventions=CONVENTIONS,
  width=nfnet.WIDTH,
  depth=nfnet.DEPTH,  # of f0 and l0; fn and ln have n + 1 times as many blocks
  activation='gelu_exact',
  skip_gain=False,
  stochdepth_rate=0.0,
)
_L0 = _F.replace(
  expansion=0.25,
  group_width=64,
  se_ratio=0.25,
  activation='silu',
  head_multiple=1.5,
  train_size=224,
  test_size=288,
)
_RESNET = _F.replace(
  width=(256, 512, 1024, 2048),
  stem=((7, 2, 64),),
  stem_pool=True,
  expansion=0.25,
  group_width=0,
  two_convs=False,
  se_ratio=0.0,
  activation='relu',
  final_conv=False,
)

_RESNET_DEPTHS = {26: (2, 2, 2, 2), 50: nf_resnet.DEPTHS[50], 101: nf_resnet.DEPTHS[101]}
_RESNET_KINDS = {'res': {}, 'seres': {'se_ratio': 1 / 16}, 'ecares': {'attention': 'efficient'}}
_RESNET_SIZES = {'nf_resnet50': (256, 288)}  # the others: 224, 224

# Depths and sizes of eca_nfnet_l1..l3, as multiples of l0's depth.
_ECA_SIZES = {2: (256, 320), 3: (320, 384), 4: (352, 448)}

_REGNET_SIZES = {'B0': (192, 256), 'B1': (256, 288)}  # the others: as published


def regnet_widths(width: tuple[int, ...], factor: float = 0.75) -> dict[str, object]:
  """Returns the width fields of a timm NF-RegNet: everything rounded to eights.

  Args:
    width: stage widths before the factor.
    factor: timm's width factor.

  Returns:
    `width`, `stem` and `head_channels` of its `ModelSpec`.
  """
  rounded = tuple(CONVENTIONS.round_channels(w * factor) for w in width)
  return {
    'width': rounded,
    'stem': ((3, 2, rounded[0]),),
    'head_channels': CONVENTIONS.round_channels(1280 * width[-1] // 440 * factor),
  }


def _eca(multiple: int) -> ModelSpec:
  """eca_nfnet_l1..l3."""
  train_size, test_size = _ECA_SIZES[multiple]
  return _L0.replace(
    attention='efficient',
    se_ratio=0.0,
    depth=tuple(d * multiple for d in nfnet.DEPTH),
    head_multiple=2.0,
    train_size=train_size,
    test_size=test_size,
  )


def _resnet(name: str, depth: tuple[int, ...], **attention: object) -> ModelSpec:
  """One of nf_resnet, nf_seresnet and nf_ecaresnet."""
  train_size, test_size = _RESNET_SIZES.get(name, (224, 224))
  return _RESNET.replace(depth=depth, train_size=train_size, test_size=test_size, **attention)


def _regnet(name: str) -> ModelSpec:
  """One of nf_regnet_b0..b5, by the published name."""
  published = nf_regnet.VARIANTS[name]
  width, *_ = nf_regnet.TABLE[name]
  train_size, test_size = _REGNET_SIZES.get(name, (published.train_size, published.test_size))
  return published.replace(
    family='NFNetLight',
    conventions=CONVENTIONS,
    **regnet_widths(width),
    skip_gain=False,
    classifier_std=_F.classifier_std,
    drop_rate=0.0,
    stochdepth_rate=0.0,
    train_size=train_size,
    test_size=test_size,
  )


VARIANTS: dict[str, ModelSpec] = {
  **{
    f'dm_nfnet_f{n}': nfnet.VARIANTS[f'F{n}'].replace(
      family='NFNetLight', conventions=DEEPMIND_CONVENTIONS, activation='gelu_exact'
    )
    for n in range(7)
  },
  **{
    f'nfnet_f{n}': _F.replace(
      depth=nfnet.VARIANTS[f'F{n}'].depth,
      train_size=nfnet.VARIANTS[f'F{n}'].train_size,
      test_size=nfnet.VARIANTS[f'F{n}'].test_size,
    )
    for n in range(8)
  },
  'nfnet_l0': _L0,
  'eca_nfnet_l0': _L0.replace(attention='efficient', se_ratio=0.0),
  **{f'eca_nfnet_l{multiple - 1}': _eca(multiple) for multiple in _ECA_SIZES},
  'test_nfnet': _L0.replace(
    width=(32, 64, 96, 128),
    depth=1,
    group_width=8,
    train_size=160,
    test_size=160,
  ),
  **{
    f'nf_{kind}net{size}': _resnet(f'nf_{kind}net{size}', depth, **attention)
    for kind, attention in _RESNET_KINDS.items()
    for size, depth in _RESNET_DEPTHS.items()
  },
  **{f'nf_regnet_b{n}': _regnet(f'B{n}') for n in range(6)},
}


class NFNetLight(NFBackbone):
  """A timm network called as `(images, is_training)` -> `{'pool', 'logits'}`.

  Its `pool` is timm's pre-logits vector: the last activation in it is not scaled by gamma.
  """

  def __init__(
    self,
    num_classes: int,
    variant: str | ModelSpec = 'nfnet_l0',
    se_ratio: float | None = None,
    alpha: float | None = None,
    skip_gain: bool | None = None,
    stochdepth_rate: float | None = None,
    drop_rate: float | None = None,
    activation: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = 'NFNetLight',
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits.
      variant: a name in `VARIANTS`, e.g. 'nfnet_l0', or a `ModelSpec` of this family.
      se_ratio: hidden width of squeeze-excite relative to its input; 0: none.
      alpha: scale of the residual branches.
      skip_gain: whether branches have a learnt scale that starts at 0.
      stochdepth_rate: stochastic depth rate of the last block.
      drop_rate: dropout before the classifier.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2).
      name: Haiku module name.

    Raises:
      ValueError: unknown variant or activation, a spec of another family, or a se_ratio with
        efficient channel attention.
    """
    spec = find_variant(variant, VARIANTS, 'NFNetLight')
    changes = given(
      se_ratio=se_ratio,
      alpha=alpha,
      skip_gain=skip_gain,
      stochdepth_rate=stochdepth_rate,
      drop_rate=drop_rate,
      activation=activation,
    )
    super().__init__(num_classes, spec.replace(**changes), fc_init, name=name)
