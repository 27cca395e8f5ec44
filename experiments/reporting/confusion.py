"""Where a network goes wrong: the confusion matrix, and its worst mistakes as pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from experiments.data import DataSettings, examples, sources
from experiments.reporting import plot_style
from experiments.training.evaluation import Predictions

CONFUSION_NAME = 'confusion.png'
MISTAKES_NAME = 'mistakes.png'
MOST_CLASSES = 100  # of a matrix that can still be read
_NUM_WORST = 24
_COLUMNS = 6


class Mistake(NamedTuple):
  """A picture that the network takes for something else."""

  index: int  # in the test set
  label: int
  predicted: int
  probability: float  # of the predicted class, 0..1
  label_probability: float  # of the right one


def confusion_matrix(predictions: Predictions) -> np.ndarray:
  """Counts pictures by their true class (row) and the predicted one (column): [K, K] int64."""
  size = predictions.probabilities.shape[1]
  matrix = np.zeros((size, size), np.int64)
  labels = predictions.labels[predictions.readable]
  predicted = predictions.probabilities[predictions.readable].argmax(axis=1)
  np.add.at(matrix, (labels, predicted), 1)
  return matrix


def worst(predictions: Predictions, count: int = _NUM_WORST) -> list[Mistake]:
  """Returns the wrong pictures whose true class is the least probable, the worst first."""
  probabilities, labels = predictions.probabilities, predictions.labels
  predicted = probabilities.argmax(axis=1)
  rows = np.arange(len(labels))
  of_label = probabilities[rows, labels]
  wrong = rows[predictions.readable & (predicted != labels)]
  chosen = wrong[np.argsort(of_label[wrong], kind='stable')][:count]
  return [
    Mistake(
      int(i),
      int(labels[i]),
      int(predicted[i]),
      float(probabilities[i, predicted[i]]),
      float(of_label[i]),
    )
    for i in chosen
  ]


def drawings(
  predictions: Predictions,
  settings: DataSettings,
  class_names: tuple[str, ...],
  listed: list[dict[str, Any]],
  title: str,
) -> dict[str, Callable[[], Figure]]:
  """Returns what draws `confusion.png` and, if there is any mistake, `mistakes.png`, by name.

  There is no matrix of more than `MOST_CLASSES` classes, which nobody could read.

  Args:
    predictions: of the test set.
    settings: say where the pictures are.
    class_names: one for each of the K classes.
    listed: the worst mistakes, of `describe`.
    title: names the model and the data.
  """
  found: dict[str, Callable[[], Figure]] = {}
  if len(class_names) <= MOST_CLASSES:
    matrix = confusion_matrix(predictions)
    found[CONFUSION_NAME] = lambda: draw_confusion(matrix, class_names, title=title)
  if listed:

    def mistakes() -> Figure:
      _, source = sources.open_sources(settings)
      pictures = _pictures(source, settings, [m.index for m in worst(predictions)])
      return draw_mistakes(pictures, listed, wrong=_num_wrong(predictions), title=title)

    found[MISTAKES_NAME] = mistakes
  return found


def describe(
  predictions: Predictions, settings: DataSettings, class_names: tuple[str, ...]
) -> list[dict[str, Any]]:
  """Returns the worst mistakes for the report: names of picture and classes, and probabilities."""
  _, source = sources.open_sources(settings)
  return [
    {
      'name': source[m.index]['name'],
      'label': class_names[m.label],
      'predicted': class_names[m.predicted],
      'probability': m.probability,
      'label_probability': m.label_probability,
    }
    for m in worst(predictions)
  ]


def draw_confusion(matrix: np.ndarray, class_names: tuple[str, ...], *, title: str = '') -> Figure:
  """Draws counts [K, K]; colours are shares of each row, so that small classes show as well."""
  size = len(matrix)
  side = min(16.0, max(4.5, 2.2 + 0.42 * size))
  figure = Figure(figsize=(side + 1.2, side), dpi=110, layout='constrained')
  axes = figure.subplots()
  totals = matrix.sum(axis=1, keepdims=True)
  shares = 100 * matrix / np.maximum(totals, 1)
  shown = axes.imshow(shares, cmap='Blues', vmin=0, vmax=100)
  figure.colorbar(shown, ax=axes, shrink=0.8, label='share of the true class (%)')
  names = [_short(name, 18) for name in class_names]
  # Names of a letter or two stand upright under their columns.
  rotation = 0 if max(map(len, names)) <= 2 else 90
  font = 'medium' if size <= 20 else 'small' if size <= 40 else 5
  axes.set_xticks(range(size), names, rotation=rotation, fontsize=font, parse_math=False)
  axes.set_yticks(range(size), names, fontsize=font, parse_math=False)
  axes.set_xlabel('predicted class')
  axes.set_ylabel('true class')
  accuracy = np.trace(matrix) / max(matrix.sum(), 1)
  share = f'{accuracy:.2%} of {matrix.sum():,} test pictures are right'
  above = f'{plot_style.plain(title)}\n' if title else ''
  axes.set_title(f'{above}{share}', fontsize='medium', parse_math=False)
  if size <= 40:
    for row, column in zip(*np.nonzero(matrix), strict=True):
      colour = 'white' if shares[row, column] > 55 else 'black'
      axes.text(
        column, row, matrix[row, column], ha='center', va='center', color=colour, fontsize=font
      )
  return figure


def draw_mistakes(
  pictures: list[np.ndarray], mistakes: list[dict[str, Any]], *, wrong: int, title: str = ''
) -> Figure:
  """Draws pictures uint8 [H, W, 3] with their names, what they are and what the network says."""
  columns = min(_COLUMNS, max(3, len(pictures)))
  rows = -(-len(pictures) // columns)
  figure = Figure(figsize=(1.9 * columns, 2.5 * rows + 0.6), dpi=110, layout='constrained')
  figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
  grid = figure.subplots(rows, columns, squeeze=False)
  for axes in grid.flat:
    axes.set_axis_off()
  for axes, picture, mistake in zip(grid.flat, pictures, mistakes, strict=False):
    axes.imshow(picture, interpolation='nearest')
    axes.set_title(
      f'{_tail(mistake.get("name", ""), 26)}\n'
      f'is {_short(mistake["label"], 19)} ({_percent(mistake["label_probability"])})\n'
      f'said {_short(mistake["predicted"], 17)} ({_percent(mistake["probability"])})',
      fontsize='small',
      parse_math=False,
    )
  counted = f'The {len(pictures)} worst of {wrong:,} mistakes, as the network sees them'
  above = f'{plot_style.plain(title)}\n' if title else ''
  figure.suptitle(f'{above}{counted}', parse_math=False)
  return figure


def _num_wrong(predictions: Predictions) -> int:
  wrong = predictions.probabilities.argmax(axis=1) != predictions.labels
  return int(np.sum(wrong & predictions.readable))


def _pictures(
  source: sources.Source, settings: DataSettings, indices: list[int]
) -> list[np.ndarray]:
  """The pictures as the network gets them, or spectrograms, brought back to uint8 [H, W, 3]."""
  make = examples.for_evaluation(source, settings)
  pixels = np.empty((len(indices), *make.shape), np.float32)
  for index, out in zip(indices, pixels, strict=True):
    make(index, out)
  return list(settings.preprocessing.restore(pixels))


def _percent(probability: float) -> str:
  return '<1%' if probability < 0.01 else f'{probability:.0%}'


def _tail(name: str, length: int) -> str:
  """The end of a path, which tells pictures apart."""
  name = plot_style.plain(name)
  return name if len(name) <= length else f'…{name[-(length - 1) :]}'


def _short(name: str, length: int) -> str:
  name = plot_style.plain(name)
  return name if len(name) <= length else f'{name[: length - 1]}…'
