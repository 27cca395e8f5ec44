"""`predictions.csv`: what the network makes of each test picture, a row each."""

import csv
from pathlib import Path

from experiments import data
from experiments.data import DataSettings
from experiments.runtime import atomic_files
from experiments.training.evaluation import Predictions

PREDICTIONS_NAME = 'predictions.csv'
COLUMNS = ('picture', 'truth', 'prediction', 'probability', 'right')


def write(
  workdir: Path, found: Predictions, settings: DataSettings, class_names: tuple[str, ...]
) -> Path:
  """Writes the table in one move, in the order of the test set.

  Args:
    workdir: the run's folder.
    found: the predictions of the test set.
    settings: of the data; a source whose pictures have no names gives their numbers, from 0.
    class_names: one for each of the K classes.

  Returns:
    Its path. The columns are `COLUMNS`: the probability is that of the prediction, in 0..1, and
    'right' is 'yes' or 'no'; a picture that cannot be read has only its name.
  """
  names = data.picture_names(settings)['test'] or range(len(found.labels))
  best = found.probabilities.argmax(axis=1)

  def rows():
    for index, (name, label) in enumerate(zip(names, found.labels, strict=True)):
      if not found.readable[index]:
        yield name, '', '', '', ''
        continue
      probability = f'{found.probabilities[index, best[index]]:.4f}'
      right = 'yes' if best[index] == label else 'no'
      yield name, class_names[label], class_names[best[index]], probability, right

  def save(path: Path) -> None:
    # Names of files may be of any bytes: they are written as they are.
    with path.open('w', encoding='utf-8', errors='surrogateescape', newline='') as file:
      writer = csv.writer(file, lineterminator='\n')
      writer.writerow(COLUMNS)
      writer.writerows(rows())

  return atomic_files.replace(workdir / PREDICTIONS_NAME, save)
