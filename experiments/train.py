"""Trains a network: python -m experiments.train --config=configs/digits.py --workdir=runs/digits

The same command again resumes exactly where the last checkpoint was written.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import data, evaluate, linear_probe
from experiments.data.batch import Batch
from experiments.reporting import recording, results
from experiments.runtime import command_line, compilation_cache, processes, profiling
from experiments.runtime.errors import NonFiniteError
from experiments.training import checkpoints, initial_weights, nonfinite, settings, steps
from nfnets import host_memory


def train(config, workdir: pathlib.Path) -> dict[str, float]:
  """Trains as the config says, resuming what `workdir` holds, and writes the report.

  Returns:
    The final figures, as in `report.json`; none if the run was asked to stop and saved its state.

  Raises:
    ValueError: a field, the data or the work directory cannot be used; nothing was overwritten.
    NonFiniteError: a loss or gradient was NaN or infinite, and `on_nonfinite` is 'stop'.
  """
  # ------------------------------------------------------------------ data, network, optimiser
  config = settings.resolve(config)
  if config.finetune.linear_probe:  # the classifier alone, on features that are computed once
    return linear_probe.train(config, workdir)
  info = data.describe(config)
  num_classes = settings.num_classes(config, info.num_classes)
  plan = settings.make_plan(config, info.num_train)
  network = settings.make_network(config, num_classes)
  layout = settings.image_layout(config, jax.default_backend())
  optimizer, step_settings = settings.make_optimizer(config, plan, layout)
  train_step = steps.make_train_step(network, optimizer, step_settings)
  eval_step = steps.make_eval_step(network)
  hosts = {'process_index': jax.process_index(), 'process_count': jax.process_count()}
  num_devices = jax.local_device_count()
  is_main = processes.is_main()

  # ------------------------------------------------------------------ start or resume
  checkpoints.claim_workdir(workdir, config.to_dict())
  state = steps.init_state(network, optimizer, config.seed, config.data.image_size)
  state = steps.replicate(state)
  with (
    checkpoints.Checkpointer(
      workdir, config.keep_checkpoints, config.on_save_failure
    ) as checkpointer,
    nonfinite.Preemption() as preemption,
  ):
    restored = checkpointer.restore(like=state)
    if restored is not None:
      state = steps.replicate(restored)
    elif config.model.pretrained:
      loaded = initial_weights.start_from(
        config.model.pretrained,
        *jax.device_get((state.params, state.network_state)),
        new_head=config.finetune.new_head,
      )
      state = steps.replicate(steps.with_weights(state, *loaded))
      processes.say(f'Starting from the weights of {config.model.pretrained}.')
    start = int(state.step)
    num_params = sum(np.size(x) for x in jax.tree.leaves(state.params))
    processes.say(
      f'{config.model.variant}: {num_params:,} parameters, {num_classes} classes. '
      f'{info.num_train:,} training and {info.num_test:,} test images of {config.data.source!r} at '
      f'{config.data.image_size} and {config.data.eval_image_size} px. '
      f'{plan.total_steps:,} steps of '
      f'{config.global_batch_size} on {jax.device_count()} {jax.default_backend()} device(s), '
      f'{config.compute_dtype}. Results go to {workdir}.'
    )
    if start:
      processes.say(f'Resuming at step {start}.')

    def evaluate_now(state: steps.TrainState) -> dict[str, float]:
      networks = {
        '': (state.params, state.network_state),
        '_ema': (state.ema_params, state.ema_network_state),
      }
      with data.test_batches(config, num_devices, **hosts) as batches:
        return evaluate.evaluate(eval_step, networks, batches)

    def check_finite(finished: tuple[int, dict[str, jax.Array], Batch]) -> None:
      step, step_metrics, batch = finished
      if not step_metrics['nonfinite']:
        return
      rate = float(step_metrics['learning_rate'])
      if config.on_nonfinite == 'skip':
        processes.say(f'step {step} was left out: its loss or gradient is not finite.')
        return
      batch = batch._replace(images=layout.restore(batch.images))
      where = nonfinite.first_nonfinite(network, state.params, state.network_state, batch)
      files = nonfinite.write_inspection(workdir, step, state.params, batch) if is_main else ()
      raise NonFiniteError(
        f'The loss ({float(step_metrics["loss"])}) or gradient of step {step} is not finite, at '
        f'learning rate {rate:.3g}. In its forward pass: {"; ".join(where)}. Its parameters and '
        f'batch are in {" and ".join(map(str, files)) or workdir}. A lower learning rate, a '
        "smaller clipping or on_nonfinite='skip' may help; the same command starts again at the "
        'last checkpoint.'
      )

    # ---------------------------------------------------------------- the loop
    evaluation_steps = plan.evaluation_steps(config.evaluate_every_epochs)
    progress = recording.Progress(
      total_steps=plan.total_steps,
      steps_per_epoch=plan.steps_per_epoch,
      images_per_step=config.global_batch_size,
      start_step=start,
    )
    tested: dict[str, float] = {}
    in_flight: list[tuple[int, dict[str, jax.Array], Batch]] = []
    stopped = False
    with (
      recording.MetricWriter(workdir, resume_step=start or None, active=is_main) as writer,
      data.train_batches(config, start, num_devices, **hosts, layout=layout) as batches,
      profiling.Profile(workdir, config.profile if is_main else '') as profile,
    ):
      for step in range(start + 1, plan.total_steps + 1):
        with progress.waiting_for_data():
          batch = next(batches)
        profile.before(step)
        state, step_metrics = train_step(state, batch)
        in_flight.append((step, step_metrics, batch))
        steps.wait_for(in_flight, collect=check_finite)
        profile.after(step, state)
        last = step == plan.total_steps
        stopped = preemption.requested(step) and not last

        if step % config.log_every_steps == 0 or last or step == start + 1:
          values = {name: float(value) for name, value in step_metrics.items()}
          values |= progress.speeds(step) | profiling.device_memory()
          if step_settings.sam_rho and step == start + 1:
            seconds = steps.ascent_seconds(network, step_settings, state, batch)
            values['sam_seconds_per_step'] = seconds
            processes.say(f'SAM: the ascent takes {seconds:.3g} s of each step.')
          writer.write(step, {f'train/{name}': value for name, value in values.items()})
          processes.say(
            progress.line(step, loss=values['loss'], learning_rate=values['learning_rate'])
          )
        if step in evaluation_steps:
          began = time.monotonic()
          tested = evaluate_now(state)
          writer.write(step, {f'test/{name}': value for name, value in tested.items()})
          processes.say(
            f'step {step}  test top-1 {tested["top1"]:.2%}, EMA {tested["top1_ema"]:.2%} of '
            f'{tested["count"]} images ({time.monotonic() - began:.1f} s)'
          )
          progress.restart(step)
        if step % config.checkpoint_every_steps == 0 or last or stopped:
          steps.wait_for(in_flight, allowed=0, collect=check_finite)
          checkpointer.save(state)  # after the evaluation: a resumed run has its figures
        if stopped:
          break

    if stopped:
      checkpointer.wait()
      processes.say(f'Asked to stop: saved step {step}. The same command goes on from there.')
      return {}

  # -------------------------------------------------------------------- report
  tested = tested or evaluate_now(state)
  figures = {
    **tested,
    'corrupt_training_pictures': len(batches.corrupt),
    'parameters': num_params,
    'steps': plan.total_steps,
    'epochs': plan.total_steps / plan.steps_per_epoch,
  }
  return results.write(
    config,
    workdir,
    network,
    state.ema_params,
    state.ema_network_state,
    figures,
    info=info,
    steps_per_epoch=plan.steps_per_epoch,
  )


def main(config: flags.FlagHolder, workdir: flags.FlagHolder) -> None:
  """Trains what the flags say."""
  if config.value.keep_freed_memory and not host_memory.accelerator_is_installed():
    host_memory.keep_freed_memory()
  processes.initialize()
  compilation_cache.enable(config.value.compilation_cache)
  name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
  try:
    train(config.value, pathlib.Path(workdir.value or f'runs/{name}'))
  except (jax.errors.JaxRuntimeError, ValueError) as error:
    if not processes.means_lost_process(error):
      raise
    processes.die_of_lost_process(error)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', 'configs/digits.py', 'What to train.')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Where results go. Default: runs/<config name>.')
  command_line.run(lambda: main(_CONFIG, _WORKDIR))
