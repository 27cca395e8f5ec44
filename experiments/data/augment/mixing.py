"""Mixup and CutMix: a picture joined with a second one, and the weight of its own label.

Mixup: arXiv 1710.09412. CutMix: arXiv 1905.04899. The NFNets (arXiv 2102.06171) give one half of
each batch to mixup and the other half to CutMix, and mix before RandAugment; the NF-RegNets mix
afterwards. Pictures are uint8 or float32 and keep their dtype. All is computed in float32; uint8
truncates, so that mixing bytes equals mixing floats and casting.
"""

import numpy as np

KINDS = ('none', 'mixup', 'cutmix')  # of one example
RECIPES = (*KINDS, 'mixup_cutmix')  # of a batch


def _check_pair(image: np.ndarray, second: np.ndarray) -> None:
  if image.dtype not in (np.uint8, np.float32) or image.ndim != 3:
    raise ValueError(
      f'The picture to mix is {image.dtype} {list(image.shape)}, but mixing expects uint8 or '
      'float32 [H, W, 3]: cast it first, and call once per pair of pictures.'
    )
  if image.shape != second.shape or image.dtype != second.dtype:
    raise ValueError(
      f'The pictures to mix are {image.dtype} {list(image.shape)} and {second.dtype} '
      f'{list(second.shape)}, but they must agree in dtype and shape: resize or cast one of them.'
    )


def mixup(
  image: np.ndarray, second: np.ndarray, rng: np.random.Generator, alpha: float = 0.2
) -> tuple[np.ndarray, np.float32]:
  """Averages two pictures: ratio * image + (1 - ratio) * second.

  Args:
    image: uint8 or float32 [H, W, 3].
    second: the same dtype and shape.
    rng: draws the ratio, from Beta(alpha, alpha).
    alpha: over 0; near 0 almost every ratio is almost 0 or 1, 1 is uniform.

  Returns:
    The mixed picture, and the ratio.

  Raises:
    ValueError: alpha is not positive, or the pictures disagree or are of another dtype.
  """
  _check_pair(image, second)
  if not alpha > 0:
    raise ValueError(f'Mixup was given alpha={alpha}, but Beta(alpha, alpha) needs alpha over 0.')
  ratio = np.float32(rng.beta(alpha, alpha))
  mixed = np.multiply(image, ratio, dtype=np.float32)
  mixed += np.multiply(second, np.float32(1) - ratio, dtype=np.float32)
  return mixed.astype(image.dtype, copy=False), ratio


def cutmix(
  image: np.ndarray, second: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.float32]:
  """Pastes a box of the second picture over the first.

  The box takes sqrt(1 - r) of each side, r uniform in 0..1, rounded down to an even number of
  pixels; its centre is uniform in the picture and the border clips it. (The published code keeps
  the first picture inside the box instead: the same distribution with the two exchanged.)

  Args:
    image: uint8 or float32 [H, W, 3]; it is not written to.
    second: the same dtype and shape.
    rng: draws the box.

  Returns:
    The mixed picture, and the part of its area that is still `image`.

  Raises:
    ValueError: the pictures disagree or are of another dtype.
  """
  _check_pair(image, second)
  height, width = image.shape[:2]
  row, column = int(rng.integers(height)), int(rng.integers(width))
  side = (1 - rng.random()) ** 0.5
  half_height, half_width = int(side * height) // 2, int(side * width) // 2
  top, bottom = max(row - half_height, 0), min(row + half_height, height)
  left, right = max(column - half_width, 0), min(column + half_width, width)
  mixed = image.copy()
  mixed[top:bottom, left:right] = second[top:bottom, left:right]
  pasted = (bottom - top) * (right - left)
  return mixed, np.float32(1 - pasted / (height * width))


def kind_of(recipe: str, place: int) -> str:
  """Returns how to mix the example at a place of its batch.

  'mixup_cutmix' takes turns, so that of every device's part of the batch, and of every even slice
  of that, one half is mixed up and the other half cut, however many devices share the batch.

  Args:
    recipe: one of RECIPES.
    place: index of the example in its host's batch.

  Returns:
    One of KINDS.

  Raises:
    ValueError: an unknown recipe.
  """
  if recipe not in RECIPES:
    raise ValueError(f'mixing is {recipe!r}; choose one of {", ".join(RECIPES)}')
  return ('mixup', 'cutmix')[place % 2] if recipe == 'mixup_cutmix' else recipe


def mix_pair(
  kind: str, image: np.ndarray, second: np.ndarray, rng: np.random.Generator, alpha: float = 0.2
) -> tuple[np.ndarray, np.float32]:
  """Mixes a picture with a second one.

  Args:
    kind: 'mixup', 'cutmix', or 'none' (the image itself, ratio 1).
    image: uint8 or float32 [H, W, 3].
    second: the same dtype and shape.
    rng: the example's own generator; nothing else decides the result.
    alpha: of mixup's Beta(alpha, alpha).

  Returns:
    The mixed picture, and the weight of the first picture's label in 0..1.

  Raises:
    ValueError: an unknown kind, or what `mixup` and `cutmix` refuse.
  """
  if kind == 'mixup':
    return mixup(image, second, rng, alpha)
  if kind == 'cutmix':
    return cutmix(image, second, rng)
  if kind == 'none':
    return image, np.float32(1)
  raise ValueError(f'No mixing is called {kind!r}: choose one of {", ".join(KINDS)}.')
