"""What a finished run leaves: the weights, the report, the curves, the mistakes as pictures."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reporting import confusion, curves, recording
from experiments.runtime import atomic_files, processes
from experiments.training import evaluation
from experiments.training.settings import Run
from nfnets import baselines, optim, weights

REPORT_NAME = 'report.json'
CURVES_NAME = 'curves.png'
WEIGHTS_NAME = 'ema_weights.safetensors'


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
  # Random pictures are not worth a look, and a matrix of a thousand classes cannot be read.
  found = None
  if data.source != 'synthetic' and num_classes <= confusion.MOST_CLASSES:
    found = evaluation.predict(run.network, params, network_state, data, num_examples=info.num_test)
  summary = {
    **results,
    'steps': run.plan.total_steps,
    'epochs': run.plan.epochs,
    'class_names': list(info.class_names),
    'config': run.config,
  }
  if not processes.is_main():
    return summary
  files = []
  if found is not None:
    files, summary['worst_mistakes'] = confusion.write(workdir, found, data, names)
  recorded = recording.read_csv(workdir)
  for name in ('seconds_per_step', 'sam_seconds_per_step'):  # the second is part of the first
    series = recorded.get(f'train/{name}')
    if series is not None:
      summary[name] = float(np.median(series.values))
  # The file alone labels pictures: `nfnets.Classifier.from_pretrained` reads these.
  text = {
    'class_names': json.dumps(names),
    'eval_mode': data.eval_mode,
    'eval_size': str(data.eval_image_size),
  }
  tree = baselines.join_state(params, network_state)
  weights.save(workdir / WEIGHTS_NAME, tree, spec=run.spec.to_dict(), metadata=text)
  title = f'{run.variant} on {data.name or data.source}'
  written = write_report(workdir, summary, steps_per_epoch=run.plan.steps_per_epoch, title=title)
  files = [*written, *files, workdir / WEIGHTS_NAME]
  processes.say(
    f'Done: test top-1 {results["top1"]:.2%}, EMA {results["top1_ema"]:.2%}. '
    f'Wrote {", ".join(map(str, files))}.'
  )
  return summary


def write_report(
  workdir: str | os.PathLike,
  summary: Mapping[str, Any],
  *,
  steps_per_epoch: float | None = None,
  title: str = '',
) -> tuple[Path, Path]:
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
    The paths of the report and of the picture.

  Raises:
    FileNotFoundError: if there is no `metrics.csv`.
    ValueError: if `metrics.csv` is damaged.
    TypeError: if summary holds something that JSON cannot.
  """
  workdir = Path(workdir)
  text = json.dumps(_plain(summary), indent=2, allow_nan=False) + '\n'
  report = atomic_files.replace(
    workdir / REPORT_NAME, lambda p: p.write_text(text, encoding='utf-8')
  )
  figure = curves.draw_curves(
    recording.read_csv(workdir), steps_per_epoch=steps_per_epoch, title=title
  )
  picture = atomic_files.replace(workdir / CURVES_NAME, lambda p: figure.savefig(p, format='png'))
  return report, picture


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
