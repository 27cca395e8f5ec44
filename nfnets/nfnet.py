"""NFNet F0..F7 and F0+..F7+ ([NFNet] table 1 and appendix, arXiv 2102.06171)."""

import haiku as hk

from nfnets.backbone import NFBackbone
from nfnets.spec import ModelSpec, find_variant, given

WIDTH = (256, 512, 1536, 1536)
_WIDTH_PLUS = (384, 768, 2048, 2048)
DEPTH = (1, 2, 6, 3)  # of F0; Fn has n + 1 times as many blocks

# Training size, test size, dropout, RandAugment magnitude of F0..F7.
_RECIPES = (
  (192, 256, 0.2, 5),
  (224, 320, 0.3, 10),
  (256, 352, 0.4, 10),
  (320, 416, 0.4, 15),
  (384, 512, 0.5, 15),
  (416, 544, 0.5, 15),
  (448, 576, 0.5, 15),
  (480, 608, 0.5, 15),
)

VARIANTS: dict[str, ModelSpec] = {
  f'F{n}{suffix}': ModelSpec(
    width=width,
    depth=tuple(d * (n + 1) for d in DEPTH),
    train_size=train_size,
    test_size=test_size,
    drop_rate=drop_rate,
    augment_magnitude=magnitude,
  )
  for suffix, width in (('', WIDTH), ('+', _WIDTH_PLUS))
  for n, (train_size, test_size, drop_rate, magnitude) in enumerate(_RECIPES)
}


class NFNet(NFBackbone):
  """A normalizer-free network called as `(images, is_training)` -> `{'pool', 'logits'}`.

      def forward(images, is_training):
        return nfnets.NFNet(num_classes=10, variant='F0')(images, is_training)['logits']

      network = hk.transform(forward)

  `variant` is a published name or a `ModelSpec`.
  """

  def __init__(
    self,
    num_classes: int | None,
    variant: str | ModelSpec = 'F0',
    width: float = 1.0,
    se_ratio: float | None = None,
    alpha: float | None = None,
    stochdepth_rate: float | None = None,
    drop_rate: float | None = None,
    activation: str | None = None,
    fc_init: hk.initializers.Initializer | None = None,
    final_conv_mult: float | None = None,
    final_conv_ch: int | None = None,
    use_two_convs: bool | None = None,
    name: str = 'NFNet',
  ):
    """Builds the network. Arguments that are None keep the variant's values.

    Args:
      num_classes: number of logits; None: no classifier, only 'pool'.
      variant: 'F0'..'F7', 'F0+'..'F7+' or a `ModelSpec`.
      width: multiplier of the stage widths (not of the stem).
      se_ratio: hidden width of squeeze-excite relative to its input; 0: none.
      alpha: scale of the residual branches.
      stochdepth_rate: stochastic depth rate that the last block approaches.
      drop_rate: dropout before the classifier.
      activation: a name in `nfnets.activations.ACTIVATIONS`.
      fc_init: initialiser of the classifier's weights; default N(0, 0.01^2).
      final_conv_mult: channels of the final convolution relative to the last stage.
      final_conv_ch: the number of these channels; takes precedence over final_conv_mult.
      use_two_convs: whether a block has a second 3x3 convolution.
      name: Haiku module name; the released weights need 'NFNet'.

    Raises:
      ValueError: unknown variant or activation, or a width that leaves no whole group.
    """
    changes = given(
      se_ratio=se_ratio,
      alpha=alpha,
      stochdepth_rate=stochdepth_rate,
      drop_rate=drop_rate,
      activation=activation,
      head_multiple=final_conv_mult,
      head_channels=final_conv_ch,
      two_convs=use_two_convs,
    )
    spec = find_variant(variant, VARIANTS, 'NFNet')
    if width != 1.0:
      changes['width'] = tuple(int(w * width) for w in spec.width)
      changes['stem'] = spec.stem
    super().__init__(num_classes, spec.replace(**changes), fc_init, name=name)
