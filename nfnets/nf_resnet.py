"""NF-ResNet ([SigProp], arXiv 2101.08692): a pre-activation ResNet without normalisation."""

import haiku as hk

from nfnets.backbone import NFBackbone
from nfnets.spec import ModelSpec, find_variant, given

_WIDTH = (256, 512, 1024, 2048)  # of the published width multiplier
_PUBLISHED_MULTIPLIER = 4
_SE_RATIO = 0.25

# Number of layers -> blocks of each stage.
DEPTHS = {
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
  288: (24, 24, 24, 24),
  600: (50, 50, 50, 50),
}

VARIANTS: dict[str, ModelSpec] = {
  f'ResNet{layers}': ModelSpec(
    family='NF_ResNet',
    width=_WIDTH,
    depth=depth,
    expansion=0.25,
    group_width=0,
    two_convs=False,
    shortcut='strided_conv',
    se_ratio=0.0,
    activation='relu',
    stem=((7, 2, 64),),
    stem_pool=True,
    final_conv=False,
  )
  for layers, depth in DEPTHS.items()
}


class NFResNet(NFBackbone):
  """An NF-ResNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  def __init__(
    self,
    num_classes: int,
    variant: str | ModelSpec = 'ResNet50',
    width: float = _PUBLISHED_MULTIPLIER,
    use_se: bool | None = None,
    se_ratio: float | None = None,
    alpha: float | None = None,
    stochdepth_rate: float | None = None,
    drop_rate: float | None = None,
    activation: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    name: str = 'NF_ResNet',
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits.
      variant: 'ResNet50', 'ResNet101', 'ResNet152', 'ResNet200', 'ResNet288', 'ResNet600' or a
        `ModelSpec` of this family.
      width: multiplier of all widths, including the stem; the variants use the papers' 4.
      use_se: whether blocks end in squeeze-excite, by default of ratio 0.25.
      se_ratio: hidden width of squeeze-excite relative to its input, unless use_se is False.
      alpha: scale of the residual branches.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      drop_rate: dropout before the classifier; 0 in all variants.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2).
      name: Haiku module name.

    Raises:
      ValueError: unknown variant or activation, or a spec of another family.
    """
    spec = find_variant(variant, VARIANTS, 'NF_ResNet')
    if use_se is not None:
      se_ratio = (se_ratio or spec.se_ratio or _SE_RATIO) if use_se else 0.0
    changes = given(
      se_ratio=se_ratio,
      alpha=alpha,
      stochdepth_rate=stochdepth_rate,
      drop_rate=drop_rate,
      activation=activation,
    )
    if width != _PUBLISHED_MULTIPLIER:
      factor = width / _PUBLISHED_MULTIPLIER
      changes['width'] = tuple(int(w * factor) for w in spec.width)
      changes['stem'] = tuple((k, s, int(channels * factor)) for k, s, channels in spec.stem)
    super().__init__(num_classes, spec.replace(**changes), fc_init, name=name)
