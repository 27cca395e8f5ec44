"""What a finished run leaves: the weights, the report, the curves, the mistakes as pictures."""

import json
import pathlib
from typing import Any

import haiku as hk
import ml_collections
import numpy as np

from experiments import data
from experiments.reporting import confusion, curves, recording
from experiments.runtime import processes
from experiments.training import evaluation, settings
from nfnets import baselines, optim, weights

WEIGHTS_NAME = 'ema_weights.safetensors'


def write(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  network: hk.TransformedWithState,
  params: Any,
  network_state: Any,
  results: dict[str, Any],
  *,
  info: data.DatasetInfo,
  steps_per_epoch: float,
) -> dict[str, Any]:
  """Writes weights and report. All processes must call it; the first one writes.

  Args:
    config: resolved.
    workdir: the run's folder, with its `metrics.csv`.
    network: the network's pure functions.
    params: replicated parameters to save.
    network_state: its replicated state.
    results: figures for the report.
    info: of the data.
    steps_per_epoch: for the curves.

  Returns:
    The figures, as in `report.json`.
  """
  num_classes = np.size(params[optim.find_classifier(params)]['b'])
  names = (*info.class_names, *(f'class {i}' for i in range(info.num_classes, num_classes)))
  # Random pictures are not worth a look, and a matrix of a thousand classes cannot be read.
  worth_a_look = config.data.source != 'synthetic' and num_classes <= confusion.MOST_CLASSES
  found = None
  if worth_a_look:
    found = evaluation.predict(network, params, network_state, config, num_examples=info.num_test)
  summary = {**results, 'class_names': list(info.class_names), 'config': config.to_dict()}
  if not processes.is_main():
    return summary
  files = []
  if found is not None:
    files, summary['worst_mistakes'] = confusion.write(workdir, found, config, names)
  recorded = recording.read_csv(workdir)
  for name in ('seconds_per_step', 'sam_seconds_per_step'):  # the second is part of the first
    series = recorded.get(f'train/{name}')
    if series is not None:
      summary[name] = float(np.median(series.values))
  # The file alone labels pictures: `nfnets.Classifier.from_pretrained` reads these.
  text = {
    'class_names': json.dumps(names),
    'eval_mode': config.data.eval_mode,
    'eval_size': str(config.data.eval_image_size),
  }
  tree = baselines.join_state(params, network_state)
  spec = settings.model_spec(config).to_dict()
  weights.save(workdir / WEIGHTS_NAME, tree, spec=spec, metadata=text)
  title = f'{config.model.variant} on {config.data.name or config.data.source}'
  written = curves.write_report(workdir, summary, steps_per_epoch=steps_per_epoch, title=title)
  files = [*written, *files, workdir / WEIGHTS_NAME]
  processes.say(
    f'Done: test top-1 {results["top1"]:.2%}, EMA {results["top1_ema"]:.2%}. '
    f'Wrote {", ".join(map(str, files))}.'
  )
  return summary
