"""From cropped pictures to what a network takes: mix, augment, normalise, in declared order."""

import dataclasses

import numpy as np

from experiments.data.augment import autoaugment, mixing, randaugment
from nfnets import images

STEPS = ('mix', 'augment', 'normalize')
# Policies work on bytes, so on pixels before normalisation; mixing takes any place.
ORDERS = (
  ('mix', 'augment', 'normalize'),
  ('augment', 'mix', 'normalize'),
  ('augment', 'normalize', 'mix'),
)
POLICIES = ('none', 'randaugment', 'autoaugment')
QUIRKS = ('solarize_wraps', 'contrast_by_area', 'enhance_from_tenth')


@dataclasses.dataclass(frozen=True)
class Chain:
  """One training example's last steps; a function of its pictures and its generator alone.

  Attributes:
    order: one of ORDERS. The NFNets mix first; the NF-RegNets mix last.
    policy: one of POLICIES.
    layers: of RandAugment.
    magnitude: of RandAugment, 0 or more; 10 is the end of the published ranges. None: unused.
    autoaugment_policy: a name in `autoaugment.POLICIES`.
    quirks: which of QUIRKS (see `randaugment.Options`) to keep.
    mixup_alpha: of mixup's Beta(alpha, alpha).
    mean: that normalisation subtracts, of each channel on the scale 0..1.
    stddev: that it divides by, likewise.
  """

  order: tuple[str, ...] = STEPS
  policy: str = 'none'
  layers: int = 4
  magnitude: float | None = 10.0
  autoaugment_policy: str = 'v0'
  quirks: tuple[str, ...] = QUIRKS
  mixup_alpha: float = 0.2
  mean: tuple[float, float, float] = images.IMAGENET_MEAN
  stddev: tuple[float, float, float] = images.IMAGENET_STDDEV

  def __call__(
    self,
    first: np.ndarray,
    second: np.ndarray | None,
    kind: str,
    rng: np.random.Generator,
    out: np.ndarray,
  ) -> np.float32:
    """Makes one example's pixels.

    Args:
      first: float32 [H, W, 3] on the scale 0..255.
      second: the same shape; the picture to mix with, unused when kind is 'none'.
      kind: one of `mixing.KINDS`.
      rng: the source of all randomness.
      out: float32 [H, W, 3], C-contiguous: takes the result, normalised. Or uint8, where the result
        is whole numbers without that: takes it as it is.

    Returns:
      The weight of the first picture's label, in 0..1; 1 when kind is 'none'.
    """
    pictures = [first] if kind == 'none' else [first, second]
    ratio = np.float32(1)
    for step in self.order:
      if step == 'mix' and len(pictures) > 1:
        mixed, ratio = mixing.mix_pair(kind, *pictures, rng, self.mixup_alpha)
        pictures = [mixed]
      elif step == 'augment' and self.policy != 'none':
        pictures = [self._augment(picture, rng) for picture in pictures]
      elif step == 'normalize' and out.dtype != np.uint8:
        # Written straight into the batch where this is the last step.
        place = out if len(pictures) == 1 else None
        scale = {'mean': self.mean, 'stddev': self.stddev}
        pictures = [images.normalize(picture, place, **scale) for picture in pictures]
      if step == 'augment' and len(pictures) > 1:
        pictures = [picture.astype(np.float32) for picture in pictures]  # mixing does not round
    if pictures[0] is not out:
      np.copyto(out, pictures[0], casting='unsafe')
    return ratio

  def _augment(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns the augmented picture, uint8; the clip and cast to uint8 is as published."""
    picture = randaugment.to_uint8(picture)
    kept = {quirk: quirk in self.quirks for quirk in QUIRKS}
    if self.policy == 'autoaugment':
      options = dataclasses.replace(autoaugment.OPTIONS[self.autoaugment_policy], **kept)
      return autoaugment.auto_augment(picture, rng, self.autoaugment_policy, options)
    options = dataclasses.replace(randaugment.PUBLISHED, **kept)
    return randaugment.rand_augment(picture, rng, self.layers, self.magnitude, options)
