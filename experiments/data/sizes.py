"""How large the pictures of a source are, from the headers of a few."""

import io
import statistics
import warnings

import numpy as np
import PIL.Image

from experiments.data.sources.source import Example, MachineError, ReadError, Source

_LOOKED_AT = 32  # pictures, evenly spread over the source


def typical_side(source: Source) -> int | None:
  """Returns the median of the pictures' shorter sides, in pixels; None if none can be read.

  Args:
    source: of pictures; a few of them are read, and none is decoded.

  Raises:
    MachineError: a picture cannot be read, and it is not its fault.
  """
  sides = []
  for index in np.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source)), dtype=int):
    try:
      sides.append(_shorter_side(source[int(index)]))
    except MachineError:
      raise
    # The run itself counts and names what cannot be read.
    except (OSError, ReadError, PIL.Image.DecompressionBombError, SyntaxError, ValueError):
      continue
  return round(statistics.median(sides)) if sides else None


def _shorter_side(example: Example) -> int:
  image = example['image']
  if isinstance(image, np.ndarray):
    return min(image.shape[:2])
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # about large pictures: only the header is read
    with PIL.Image.open(io.BytesIO(image)) as picture:
      return min(picture.size)
