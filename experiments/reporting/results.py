"""What a finished run leaves: the weights, the report, the curves, the mistakes as pictures."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from matplotlib.figure import Figure

from experiments.reporting import confusion, curves, plot_style, predictions, recording
from experiments.runtime import atomic_files, processes
from experiments.training import evaluation
from experiments.training.settings import Run
from nfnets import baselines, optim, weights

REPORT_NAME = 'report.json'
CURVES_NAME = 'curves.png'
# Rows of probabilities that are worth their memory: 400 MB.
_MOST_PROBABILITIES = 100_000_000


def write(
  run: Run,
  workdir: Path,
  params: Any,
  network_state: Any,
  results: Mapping[str, Any],
) -> dict[str, Any]:
  """Writes weights and report. All processes must call it; the first one writes.

  Args:
    run: that is finished.
    workdir: the run's folder, with its `metrics.csv`.
    params: replicated parameters to save.
    network_state: its replicated state.
    results: figures for the report; those of its length are added.

  Returns:
    The figures, as in `report.json`.
  """
  info, data = run.info, run.data
  num_classes = np.size(params[optim.find_classifier(params)]['b'])
  names = (*info.class_names, *(f'class {i}' for i in range(info.num_classes, num_classes)))
  summary = {
    **results,
    'steps': run.plan.total_steps,
    'epochs': run.plan.epochs,
    'class_names': list(info.class_names),
    'config': run.config,
  }
  if run.budget is not None:
    summary['privacy'] = run.budget.to_json(run.plan.total_steps)
  title, files = f'{run.model_title} on {data.title}', []
  if processes.is_main():  # what cannot be had again comes first
    files.append(_write_weights(run, workdir, params, network_state, names))
    summary |= _median_seconds(workdir)
    files += write_report(workdir, summary, steps_per_epoch=run.plan.steps_per_epoch, title=title)
  # Random pictures are not worth a look.
  found = None
  if data.source != 'synthetic' and info.num_test * num_classes <= _MOST_PROBABILITIES:
    processes.say(f'Labelling the {info.num_test:,} test {data.noun}s for the report.')
    found = evaluation.predict(run.network, params, network_state, data, num_examples=info.num_test)
  if not processes.is_main():
    return summary
  if found is not None:
    files.append(predictions.write(workdir, found, data, names))
    summary['worst_mistakes'] = mistakes = confusion.describe(found, data, names)
    _write_json(workdir, summary)
    (workdir / confusion.MISTAKES_NAME).unlink(missing_ok=True)  # of an earlier report
    files += write_pictures(workdir, confusion.drawings(found, data, names, mistakes, title))
  processes.say(
    f'Done: test top-1 {results["top1"]:.2%}, EMA {results["top1_ema"]:.2%}. '
    f'Wrote {", ".join(map(str, files))}.'
  )
  return summary


def _write_weights(
  run: Run, workdir: Path, params: Any, network_state: Any, names: tuple[str, ...]
) -> Path:
  """Writes the weights, whose file alone labels pictures: `Classifier.from_pretrained` reads it."""
  tree = baselines.join_state(params, network_state)
  metadata = {}
  if run.budget is not None:
    metadata['privacy'] = json.dumps(run.budget.to_json(run.plan.total_steps))
  weights.save(
    workdir / weights.RUN_FILE,
    tree,
    spec=run.spec,
    class_names=names,
    preprocessing=run.data.preprocessing,
    metadata=metadata,
  )
  return workdir / weights.RUN_FILE


def _median_seconds(workdir: Path) -> dict[str, float]:
  """Seconds of a step, and of SAM's part of it, as `metrics.csv` has them."""
  try:
    recorded = recording.read_csv(workdir)
  except (OSError, ValueError) as error:
    logging.warning('The report has no times of steps: %s', error)
    return {}
  names = ('seconds_per_step', 'sam_seconds_per_step')
  found = {name: recorded.get(f'train/{name}') for name in names}
  return {name: float(np.median(series.values)) for name, series in found.items() if series}


def write_report(
  workdir: str | os.PathLike,
  summary: Mapping[str, Any],
  *,
  steps_per_epoch: float | None = None,
  title: str = '',
) -> list[Path]:
  """Writes `report.json` and, from the run's `metrics.csv`, `curves.png` into workdir.

  The metrics drawn are those of `curves.PANELS`; accuracies and shares are fractions of 1 in the
  file and percentages in the picture. Both files are replaced in one move.

  Args:
    workdir: the run's folder.
    summary: final figures; numbers, text, lists and mappings, numpy and JAX scalars included.
      A NaN or an infinity becomes null.
    steps_per_epoch: draws over epochs; None draws over steps.
    title: a line above the curves, e.g. the variant and the data set.

  Returns:
    The paths of the report and, if it could be drawn, of the picture.

  Raises:
    FileNotFoundError: if there is no workdir.
    TypeError: if summary holds something that JSON cannot.
  """

  def draw() -> Figure:
    series = recording.read_csv(workdir)
    return curves.draw_curves(series, steps_per_epoch=steps_per_epoch, title=title)

  return [_write_json(workdir, summary), *write_pictures(workdir, {CURVES_NAME: draw})]


def _write_json(workdir: str | os.PathLike, summary: Mapping[str, Any]) -> Path:
  text = json.dumps(_plain(summary), indent=2, allow_nan=False) + '\n'
  place = Path(workdir) / REPORT_NAME
  return atomic_files.replace(place, lambda p: p.write_text(text, encoding='utf-8'))


def write_pictures(
  workdir: str | os.PathLike, drawings: Mapping[str, Callable[[], Figure]]
) -> list[Path]:
  """Draws each picture by itself: one that cannot be drawn is named and the others are written.

  Args:
    workdir: the run's folder.
    drawings: a file's name -> what draws it.

  Returns:
    The paths of those that were written.
  """
  written = []
  for name, draw in drawings.items():
    place = Path(workdir) / name
    try:
      figure = draw()
      written.append(
        atomic_files.replace(place, lambda p, f=figure: plot_style.save(f, p, format='png'))
      )
    except Exception as error:  # of Matplotlib, of a font, of a picture that has gone
      reason = ' '.join(str(error).split()) or type(error).__name__
      logging.warning('%s could not be drawn (%s); all else is written.', place, reason)
  return written


def _plain(value: Any) -> Any:
  """JSON's own types: numpy and JAX numbers become Python's, numbers that are not finite None."""
  if isinstance(value, Mapping):
    return {str(key): _plain(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  if hasattr(value, 'tolist'):
    return _plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
