"""Kernels, strides and sizes: a number for both axes, or (height, width).

Of a spectrogram [N, time, mel, 1], the height is time and the width is frequency.
"""

from typing import Any

Sides = int | tuple[int, int]


def pair(sides: Sides) -> tuple[int, int]:
  """Returns (height, width)."""
  return (sides, sides) if isinstance(sides, int) else tuple(sides)


def plain(sides: Any) -> Any:
  """Returns the one way to write it: a number if both sides are equal, otherwise a tuple.

  Raises:
    ValueError: it is a list or tuple, but not of two whole numbers.
  """
  if not isinstance(sides, list | tuple):
    return sides
  if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
    raise ValueError(f'give one whole number, or two for height and width, got {tuple(sides)}.')
  height, width = sides
  return height if height == width else (height, width)
