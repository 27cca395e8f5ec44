"""How every figure looks: colours that can be told apart, a faint grid, no frame."""

from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart with every common colour vision; line styles differ as well.
PALETTE = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY_BLUE, BLACK = PALETTE


def tidy(axes: Axes, grid: str = 'both') -> None:
  """Draws the grid of the axis 'x', 'y' or 'both' behind the curves, and no frame around them."""
  axes.grid(axis=grid, color='0.9', linewidth=0.8)
  axes.set_axisbelow(True)
  axes.spines[['top', 'right']].set_visible(False)
