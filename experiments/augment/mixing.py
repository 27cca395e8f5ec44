"""Mixup and CutMix: an example joined with a second one, and the weight of its own label.

Mixup: arXiv 1710.09412. CutMix: arXiv 1905.04899. The NFNets (arXiv 2102.06171) give one half of
each batch to mixup and the other half to CutMix, and mix before RandAugment; the NF-RegNets mix
afterwards. Pictures are uint8 or float32 and keep their dtype. All is computed in float32; uint8
truncates, so that mixing bytes equals mixing floats and casting.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KINDS = ('none', 'mixup', 'cutmix')


class Mixed(NamedTuple):
  """One mixed example, or a batch of them with a leading axis B on every field."""

  images: np.ndarray  # [H, W, 3], the dtype of the input
  labels: np.ndarray  # [] int32
  mix_labels: np.ndarray  # [] int32, the label of the second example
  mix_ratio: np.ndarray  # [] float32, the weight of `labels` in 0..1


def _check_pair(image: np.ndarray, second: np.ndarray) -> None:
  if image.dtype not in (np.uint8, np.float32) or image.ndim != 3:
    raise ValueError(
      f'The picture to mix is {image.dtype} {list(image.shape)}, but mixing expects uint8 or '
      'float32 [H, W, 3]: cast it first, and pass batches to mix_batch.'
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


def kind_by_half(position: int, batch_size: int) -> str:
  """The published split: mixup for the first half of a batch (rounded down), CutMix for the rest.

  Args:
    position: of the example in its batch; an index into the stream of examples does as well.
    batch_size: the number of examples in that batch.

  Returns:
    'mixup' or 'cutmix'.
  """
  return 'mixup' if position % batch_size < batch_size // 2 else 'cutmix'


def kind_by_parity(index: int) -> str:
  """Mixup for even indices and CutMix for odd ones: both reach every device of a split batch."""
  return ('mixup', 'cutmix')[index % 2]


def mix_example(
  kind: str,
  image: np.ndarray,
  label: int,
  second: np.ndarray,
  second_label: int,
  rng: np.random.Generator,
  alpha: float = 0.2,
) -> Mixed:
  """Mixes one example with a second one.

  Args:
    kind: 'mixup', 'cutmix', or 'none' (the image itself, ratio 1).
    image: uint8 or float32 [H, W, 3].
    label: its class.
    second: the same dtype and shape.
    second_label: its class.
    rng: the example's own generator; nothing else decides the result.
    alpha: of mixup's Beta(alpha, alpha).

  Returns:
    A Mixed without the batch axis.

  Raises:
    ValueError: an unknown kind, or what `mixup` and `cutmix` refuse.
  """
  if kind == 'mixup':
    mixed, ratio = mixup(image, second, rng, alpha)
  elif kind == 'cutmix':
    mixed, ratio = cutmix(image, second, rng)
  elif kind == 'none':
    mixed, second_label, ratio = image, label, np.float32(1)
  else:
    raise ValueError(f'No mixing is called {kind!r}: choose one of {", ".join(KINDS)}.')
  return Mixed(mixed, np.int32(label), np.int32(second_label), ratio)


def example_generators(rng: np.random.Generator, count: int) -> list[np.random.Generator]:
  """One generator per example, so that no example's draws depend on those of another."""
  return [np.random.default_rng(seed) for seed in rng.integers(2**63, size=count)]


def mix_batch(
  images: np.ndarray,
  labels: np.ndarray,
  second_images: np.ndarray | Sequence[np.ndarray],
  second_labels: np.ndarray,
  rng: np.random.Generator,
  alpha: float = 0.2,
  kinds: Sequence[str] | None = None,
) -> Mixed:
  """Mixes example i with second example i.

  Args:
    images: uint8 or float32 [B, H, W, 3]; not written to.
    labels: integers [B].
    second_images: B pictures of the same dtype and shape, an array or a list.
    second_labels: integers [B].
    rng: the batch's generator: a fresh one for each step makes the batch a function of the step.
    alpha: of mixup's Beta(alpha, alpha).
    kinds: B of KINDS; None mixes up the first half and cuts the second, as published.

  Returns:
    A Mixed with the axis B: images, labels int32, mix_labels int32, mix_ratio float32.

  Raises:
    ValueError: the lengths disagree, or what `mix_example` refuses.
  """
  count = len(images)
  kinds = [kind_by_half(i, count) for i in range(count)] if kinds is None else kinds
  lengths = [len(part) for part in (images, labels, second_images, second_labels, kinds)]
  if len(set(lengths)) != 1:
    raise ValueError(
      'images, labels, second_images, second_labels and kinds hold '
      f'{", ".join(map(str, lengths))} examples, but they must hold equally many: pass one of each '
      'for every example.'
    )
  mixed = Mixed(
    np.empty_like(images),
    np.empty(count, np.int32),
    np.empty(count, np.int32),
    np.empty(count, np.float32),
  )
  for i, generator in enumerate(example_generators(rng, count)):
    example = mix_example(
      kinds[i], images[i], labels[i], second_images[i], second_labels[i], generator, alpha
    )
    for field, value in zip(mixed, example, strict=True):
      field[i] = value
  return mixed


def mix_within_batch(
  images: np.ndarray,
  labels: np.ndarray,
  rng: np.random.Generator,
  alpha: float = 0.2,
  kinds: Sequence[str] | None = None,
) -> Mixed:
  """Mixes example i with example i - 1 of the same batch, and the first with the last.

  That halves the pictures to decode, against the published pairing with separate ones.

  Args:
    images: uint8 or float32 [B, H, W, 3], B at least 2; not written to.
    labels: integers [B].
    rng: as for `mix_batch`.
    alpha: of mixup's Beta(alpha, alpha).
    kinds: as for `mix_batch`.

  Returns:
    As `mix_batch`.

  Raises:
    ValueError: one example only, or what `mix_batch` refuses.
  """
  if len(images) < 2:
    raise ValueError(
      f'A batch of {len(images)} cannot be mixed within itself, which takes 2 examples: enlarge it '
      'or pass second images to mix_batch.'
    )
  # An index list instead of np.roll: the pictures of a batch are too many to copy.
  partners = [images[i - 1] for i in range(len(images))]
  return mix_batch(images, labels, partners, np.roll(labels, 1), rng, alpha, kinds)
