"""SpecAugment: bands of time and of frequency are hidden from the network (arXiv 1904.08779)."""

from typing import NamedTuple

import numpy as np


class Masks(NamedTuple):
  """What is masked in each spectrogram.

  A mask's length is uniform from nothing to the given share of the axis, and its place is uniform
  over those where it fits. Masked values become 0, the mean of normalised spectrograms. There is no
  time warping, which the paper found to matter least.

  Attributes:
    time_masks: number of masks along time.
    time_share: largest share of the frames that one of them hides, 0..1.
    mel_masks: number of masks along frequency.
    mel_share: largest share of the bands that one of them hides, 0..1.
  """

  time_masks: int = 0
  time_share: float = 0.1
  mel_masks: int = 0
  mel_share: float = 0.2

  def __call__(self, spectrogram: np.ndarray, rng: np.random.Generator) -> None:
    """Masks float [frames, bands, ...] in place."""
    for axis, count, share in (
      (0, self.time_masks, self.time_share),
      (1, self.mel_masks, self.mel_share),
    ):
      length = spectrogram.shape[axis]
      for _ in range(count):
        hidden = int(rng.integers(int(share * length) + 1))
        start = int(rng.integers(length - hidden + 1))
        np.moveaxis(spectrogram, axis, 0)[start : start + hidden] = 0
