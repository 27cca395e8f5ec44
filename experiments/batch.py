"""The one layout of a batch, from the input pipeline to the device."""

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
  """Always complete. D is the number of local devices, B the number of examples on each.

  An unmixed example has mix_ratio 1; its mix_label is then ignored (and equals its label).
  """

  images: np.ndarray  # [D, B, H, W, 3] float32 (or bfloat16), normalised
  labels: np.ndarray  # [D, B] int32
  mix_labels: np.ndarray  # [D, B] int32
  mix_ratio: np.ndarray  # [D, B] float32, the weight of `labels` in 0..1
  mask: np.ndarray  # [D, B] float32, 1 for a real example and 0 for padding
