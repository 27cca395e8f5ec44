"""NF-RegNet B0..B8 ([SigProp] appendix, arXiv 2101.08692)."""

import haiku as hk

from nfnets.backbone import NFBackbone
from nfnets.spec import ModelSpec, find_variant, given

_PUBLISHED_MULTIPLIER = 0.75

# Stage widths before the multiplier, depths, training size, test size, dropout.
TABLE = {
  'B0': ((48, 104, 208, 440), (1, 3, 6, 6), 192, 224, 0.2),
  'B1': ((48, 104, 208, 440), (2, 4, 7, 7), 224, 256, 0.2),
  'B2': ((56, 112, 232, 488), (2, 4, 8, 8), 240, 272, 0.3),
  'B3': ((56, 128, 248, 528), (2, 5, 9, 9), 288, 320, 0.3),
  'B4': ((64, 144, 288, 616), (2, 6, 11, 11), 320, 384, 0.4),
  'B5': ((80, 168, 336, 704), (3, 7, 14, 14), 384, 456, 0.4),
  'B6': ((88, 184, 376, 792), (3, 8, 16, 16), 448, 528, 0.5),
  'B7': ((96, 208, 416, 880), (4, 10, 19, 19), 512, 600, 0.5),
  'B8': ((104, 232, 456, 968), (4, 11, 22, 22), 600, 672, 0.5),
}


def _widths(width: tuple[int, ...]) -> dict[str, object]:
  """The widths of the stem and of the final convolution, which follow from the stage widths."""
  return {'width': width, 'stem': ((3, 2, width[0]),), 'head_channels': 1280 * width[-1] // 440}


VARIANTS: dict[str, ModelSpec] = {
  name: ModelSpec(
    family='NF_RegNet',
    **_widths(tuple(int(w * _PUBLISHED_MULTIPLIER) for w in width)),
    depth=depth,
    stride=2,
    expansion=2.25,
    expansion_of='input',
    first_expansion=1.0,
    group_width=8,
    two_convs=False,
    attention_position='before_last_conv',
    activation='silu',
    classifier_std=0.0,
    drop_rate=drop_rate,
    train_size=train_size,
    test_size=test_size,
  )
  for name, (width, depth, train_size, test_size, drop_rate) in TABLE.items()
}


class NFRegNet(NFBackbone):
  """An NF-RegNet called as `(images, is_training)` -> `{'pool', 'logits'}`."""

  def __init__(
    self,
    num_classes: int,
    variant: str | ModelSpec = 'B0',
    width: float = _PUBLISHED_MULTIPLIER,
    se_ratio: float | None = None,
    alpha: float | None = None,
    stochdepth_rate: float | None = None,
    drop_rate: float | None = None,
    activation: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    expand_ratio: float | None = None,
    group_size: int | None = None,
    name: str = 'NF_RegNet',
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits.
      variant: 'B0'..'B8' or a `ModelSpec` of this family.
      width: multiplier of all widths, including stem and final convolution; the variants use the
        paper's 0.75.
      se_ratio: hidden width of squeeze-excite relative to its input; 0: none.
      alpha: scale of the residual branches.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      drop_rate: dropout before the classifier.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      fc_init: initialiser of the classifier's weights; default zeros.
      expand_ratio: bottleneck width relative to a block's input (1 in the first block).
      group_size: channels of one group of the 3x3 convolutions.
      name: Haiku module name.

    Raises:
      ValueError: unknown variant or activation, a spec of another family, or a width that leaves
        no whole group.
    """
    changes = given(
      se_ratio=se_ratio,
      alpha=alpha,
      stochdepth_rate=stochdepth_rate,
      drop_rate=drop_rate,
      activation=activation,
      expansion=expand_ratio,
      group_width=group_size,
    )
    spec = find_variant(variant, VARIANTS, 'NF_RegNet')
    if width != _PUBLISHED_MULTIPLIER:
      changes |= _widths(tuple(int(w * width / _PUBLISHED_MULTIPLIER) for w in spec.width))
    super().__init__(num_classes, spec.replace(**changes), fc_init, name=name)
