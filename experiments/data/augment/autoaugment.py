"""AutoAugment: a learned policy of 25 pairs of operations, one pair per picture (arXiv 1805.09501).

A policy is data: sub-policies of steps (operation, probability, magnitude), with the operations and
the magnitudes of `randaugment`.
"""

import dataclasses

import numpy as np

from experiments.data.augment import randaugment

Step = tuple[str, float, float]
Policy = tuple[tuple[Step, ...], ...]

# The policy of the authors' released code, which the published NFNet pipeline calls AutoAugment v0.
_V0: Policy = (
  (('Equalize', 0.8, 1), ('ShearY', 0.8, 4)),
  (('Color', 0.4, 9), ('Equalize', 0.6, 3)),
  (('Color', 0.4, 1), ('Rotate', 0.6, 8)),
  (('Solarize', 0.8, 3), ('Equalize', 0.4, 7)),
  (('Solarize', 0.4, 2), ('Solarize', 0.6, 2)),
  (('Color', 0.2, 0), ('Equalize', 0.8, 8)),
  (('Equalize', 0.4, 8), ('SolarizeAdd', 0.8, 3)),
  (('ShearX', 0.2, 9), ('Rotate', 0.6, 8)),
  (('Color', 0.6, 1), ('Equalize', 1.0, 2)),
  (('Invert', 0.4, 9), ('Rotate', 0.6, 0)),
  (('Equalize', 1.0, 9), ('ShearY', 0.6, 3)),
  (('Color', 0.4, 7), ('Equalize', 0.6, 0)),
  (('Posterize', 0.4, 6), ('AutoContrast', 0.4, 7)),
  (('Solarize', 0.6, 8), ('Color', 0.6, 9)),
  (('Solarize', 0.2, 4), ('Rotate', 0.8, 9)),
  (('Rotate', 1.0, 7), ('TranslateY', 0.8, 9)),
  (('ShearX', 0.0, 0), ('Solarize', 0.8, 4)),
  (('ShearY', 0.8, 0), ('Color', 0.6, 4)),
  (('Color', 1.0, 0), ('Rotate', 0.6, 2)),
  (('Equalize', 0.8, 4), ('Equalize', 0.0, 8)),
  (('Equalize', 1.0, 4), ('AutoContrast', 0.6, 2)),
  (('ShearY', 0.4, 7), ('SolarizeAdd', 0.6, 7)),
  (('Posterize', 0.8, 2), ('Solarize', 0.6, 10)),
  (('Solarize', 0.6, 8), ('Equalize', 0.6, 1)),
  (('Color', 0.8, 6), ('Rotate', 0.4, 5)),
)

# The policy that the paper prints for ImageNet: arXiv 1805.09501, Table 9.
_PAPER: Policy = (
  (('Posterize', 0.4, 8), ('Rotate', 0.6, 9)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
  (('Posterize', 0.6, 7), ('Posterize', 0.6, 6)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Equalize', 0.4, 4), ('Rotate', 0.8, 8)),
  (('Solarize', 0.6, 3), ('Equalize', 0.6, 7)),
  (('Posterize', 0.8, 5), ('Equalize', 1.0, 2)),
  (('Rotate', 0.2, 3), ('Solarize', 0.6, 8)),
  (('Equalize', 0.6, 8), ('Posterize', 0.4, 6)),
  (('Rotate', 0.8, 8), ('Color', 0.4, 0)),
  (('Rotate', 0.4, 9), ('Equalize', 0.6, 2)),
  (('Equalize', 0.0, 7), ('Equalize', 0.8, 8)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Rotate', 0.8, 8), ('Color', 1.0, 2)),
  (('Color', 0.8, 8), ('Solarize', 0.8, 7)),
  (('Sharpness', 0.4, 7), ('Invert', 0.6, 8)),
  (('ShearX', 0.6, 5), ('Equalize', 1.0, 9)),
  (('Color', 0.4, 0), ('Equalize', 0.6, 3)),
  (('Equalize', 0.4, 7), ('Solarize', 0.2, 4)),
  (('Solarize', 0.6, 5), ('AutoContrast', 0.6, 5)),
  (('Invert', 0.6, 4), ('Equalize', 1.0, 8)),
  (('Color', 0.6, 4), ('Contrast', 1.0, 8)),
  (('Equalize', 0.8, 8), ('Equalize', 0.6, 3)),
)

POLICIES: dict[str, Policy] = {'v0': _V0, 'paper': _PAPER}

# AutoAugment's published ranges are wider than RandAugment's; the paper posterizes to 4..8 bits.
PUBLISHED = dataclasses.replace(randaugment.PUBLISHED, translate_pixels=250.0, cutout_pixels=100.0)
OPTIONS = {'v0': PUBLISHED, 'paper': dataclasses.replace(PUBLISHED, posterize_base_bits=4)}


def auto_augment(
  image: np.ndarray,
  rng: np.random.Generator,
  policy: str | Policy = 'v0',
  options: randaugment.Options | None = None,
) -> np.ndarray:
  """Draws one sub-policy uniformly and applies each of its steps with the step's probability.

  Args:
    image: uint8 [H, W, 3], RGB; it is not written to.
    rng: the source of all randomness.
    policy: a name in POLICIES, or sub-policies of steps (operation, probability, magnitude).
    options: the ranges and quirks; None takes those of the named policy (for a policy of your own,
      PUBLISHED).

  Returns:
    uint8 [H, W, 3]; the image itself where no step changed anything.

  Raises:
    ValueError: an unknown or empty policy, or what `randaugment.apply` refuses.
  """
  if isinstance(policy, str):
    if policy not in POLICIES:
      raise ValueError(
        f'No AutoAugment policy is called {policy!r}: choose one of {", ".join(POLICIES)}, or give '
        'a tuple of sub-policies.'
      )
    options = options or OPTIONS[policy]
    policy = POLICIES[policy]
  if not policy:
    raise ValueError('The AutoAugment policy is empty: give at least one sub-policy.')
  for name, probability, magnitude in policy[rng.integers(len(policy))]:
    if rng.random() < probability:
      image = randaugment.apply(name, image, magnitude, rng, options or PUBLISHED)
  return image
