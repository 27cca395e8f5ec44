"""Trains a network: python -m experiments.train --config=configs/digits.py --workdir=runs/digits

The same command again resumes exactly where the last checkpoint was written.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import checkpoints, cli, data, evaluate, metrics, report, settings, steps
from nfnets import weights

_CONFIG = config_flags.DEFINE_config_file('config', 'configs/digits.py', 'What to train.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where results go. Default: runs/<config name>.')

WEIGHTS_NAME = 'ema_weights.safetensors'


def train(config, workdir: pathlib.Path) -> dict[str, float]:
  """Trains as the config says, resuming what `workdir` holds, and writes the report.

  Returns:
    The final figures, as in `report.json`.

  Raises:
    ValueError: a field, the data or the work directory cannot be used; nothing was overwritten.
  """
  # ------------------------------------------------------------------ data, network, optimiser
  config = settings.resolve(config)
  info = data.describe(config)
  num_classes = settings.num_classes(config, info.num_classes)
  plan = settings.make_plan(config, info.num_train)
  network = settings.make_network(config, num_classes)
  optimizer, step_settings = settings.make_optimizer(config, plan)
  train_step = steps.make_train_step(network, optimizer, step_settings)
  eval_step = steps.make_eval_step(network)
  hosts = {'process_index': jax.process_index(), 'process_count': jax.process_count()}
  num_devices = jax.local_device_count()

  # ------------------------------------------------------------------ start or resume
  checkpoints.claim_workdir(workdir, config.to_dict())
  state = steps.init_state(network, optimizer, config.seed, config.data.image_size)
  state = steps.replicate(state)
  with checkpoints.Checkpointer(workdir, config.keep_checkpoints) as checkpointer:
    restored = checkpointer.restore(like=state)
    state = restored or state
    start = int(state.step)
    num_params = sum(np.size(x) for x in jax.tree.leaves(state.params))
    _say(
      f'{config.model.variant}: {num_params:,} parameters, {num_classes} classes. '
      f'{info.num_train:,} training and {info.num_test:,} test images of {config.data.source!r} at '
      f'{config.data.image_size} and {config.data.eval_image_size} px. '
      f'{plan.total_steps:,} steps of '
      f'{config.global_batch_size} on {jax.device_count()} {jax.default_backend()} device(s), '
      f'{config.compute_dtype}. Results go to {workdir}.'
    )
    if start:
      _say(f'Resuming at step {start}.')

    def evaluate_now(state: steps.TrainState) -> dict[str, float]:
      networks = {
        '': (state.params, state.network_state),
        '_ema': (state.ema_params, state.ema_network_state),
      }
      with data.test_batches(config, num_devices, **hosts) as batches:
        return evaluate.evaluate(eval_step, networks, batches)

    # ---------------------------------------------------------------- the loop
    is_main = jax.process_index() == 0
    evaluation_steps = plan.evaluation_steps(config.evaluate_every_epochs)
    progress = metrics.Progress(
      total_steps=plan.total_steps,
      steps_per_epoch=plan.steps_per_epoch,
      images_per_step=config.global_batch_size,
      start_step=start,
    )
    results: dict[str, float] = {}
    in_flight: list[dict[str, jax.Array]] = []
    with (
      metrics.MetricWriter(workdir, resume_step=start or None, active=is_main) as writer,
      data.train_batches(config, start, num_devices, **hosts) as batches,
    ):
      for step in range(start + 1, plan.total_steps + 1):
        state, step_metrics = train_step(state, next(batches))
        in_flight.append(step_metrics)
        steps.wait_for(in_flight)
        last = step == plan.total_steps

        if step % config.log_every_steps == 0 or last or step == start + 1:
          values = {name: float(value) for name, value in step_metrics.items()}
          writer.write(step, {f'train/{name}': value for name, value in values.items()})
          _say(progress.line(step, loss=values['loss'], learning_rate=values['learning_rate']))
        if step in evaluation_steps:
          began = time.monotonic()
          results = evaluate_now(state)
          writer.write(step, {f'test/{name}': value for name, value in results.items()})
          _say(
            f'step {step}  test top-1 {results["top1"]:.2%}, EMA {results["top1_ema"]:.2%} of '
            f'{results["count"]} images ({time.monotonic() - began:.1f} s)'
          )
          progress.restart(step)
        if step % config.checkpoint_every_steps == 0 or last:
          checkpointer.save(state)  # after the evaluation: a resumed run has its figures

  # -------------------------------------------------------------------- report
  results = results or evaluate_now(state)
  summary = {
    **results,
    'corrupt_training_pictures': len(batches.corrupt),
    'parameters': num_params,
    'steps': plan.total_steps,
    'epochs': plan.total_steps / plan.steps_per_epoch,
    'class_names': list(info.class_names),
    'config': config.to_dict(),
  }
  if is_main:
    spec = settings.model_spec(config).to_dict()
    weights.save(workdir / WEIGHTS_NAME, state.ema_params, spec=spec)
    title = f'{config.model.variant} on {config.data.name or config.data.source}'
    files = report.write_report(workdir, summary, steps_per_epoch=plan.steps_per_epoch, title=title)
    _say(
      f'Done: test top-1 {results["top1"]:.2%}, EMA {results["top1_ema"]:.2%}. '
      f'Wrote {", ".join(str(f) for f in (*files, workdir / WEIGHTS_NAME))}.'
    )
  return summary


def _say(line: str) -> None:
  if jax.process_index() == 0:
    print(line, flush=True)


def main() -> None:
  """Trains what the flags say."""
  name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
  train(_CONFIG.value, pathlib.Path(_WORKDIR.value or f'runs/{name}'))


if __name__ == '__main__':
  cli.run(main)
