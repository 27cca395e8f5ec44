"""How every figure looks: colours that can be told apart, a faint grid, no frame."""

import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.runtime import atomic_files
from nfnets import picture_files

# Okabe and Ito's palette, told apart with every common colour vision; line styles differ as well.
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
SUFFIXES = ('.png', '.svg', '.pdf', '.jpg')  # of files that `save` can write
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK = PALETTE


def tidy(axes: Axes, grid: str = 'both') -> None:
  """Draws the grid of the axis 'x', 'y' or 'both' behind the curves, and no frame around them."""
  axes.grid(axis=grid, color='0.9', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)


def plain(name: str) -> str:
  """Returns a name from outside as text that can be drawn; pass parse_math=False beside it."""
  return picture_files.printable(name)


def save(figure: Figure, path: Path, **options: object) -> None:
  """Writes a figure, whole or not at all; letters that the font lacks are drawn as boxes."""
  options.setdefault('format', path.suffix[1:].lower())
  with warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='Glyph .* missing from')
    atomic_files.replace(path, lambda p: figure.savefig(p, **options))
