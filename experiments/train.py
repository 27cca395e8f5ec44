"""Trains a network: nfnets train --config=digits --workdir=runs/digits

The same command again resumes exactly where the last checkpoint was written.

SIGTERM, SIGHUP and Ctrl-C let the run finish its step and save; then it ends with exit code 75 (or
what --exit_code_when_stopped says): give the same command again. A second signal ends it at once,
with 128 + its number. Other exit codes: 0 the run is finished, 1 it cannot go on, 2 wrong flags.
"""

import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import data, linear_probe
from experiments.reporting import progress, recording, results
from experiments.runtime import (
  agreement,
  command_line,
  compilation_cache,
  local_paths,
  platforms,
  preemption,
  processes,
  profiling,
  waiting,
)
from experiments.training import (
  checkpoints,
  evaluation,
  initial_weights,
  nonfinite,
  same_run,
  secret,
  settings,
  steps,
  update_sharding,
  work_directory,
)
from nfnets import host_memory, interruption


@data.kept_open()
def train(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
  """Trains as the config says, resuming what `workdir` holds, and writes the report.

  Returns:
    The final figures, as in `report.json`; none if the run was asked to stop and saved its state.

  Raises:
    ValueError: a field, the data or the work directory cannot be used; nothing was overwritten.
    NonFiniteError: a loss or gradient was NaN or infinite, and `on_nonfinite` is 'stop'.
  """
  run = settings.read(config)
  same_run.require(run.config, run.info)
  data.check_test_set(run.data)
  agreement.require_shared(workdir)
  owned = work_directory.WorkDirectory(
    workdir, run.config, run.data, run.info.identity, run.left_open
  )
  with owned.opened():
    # A linear probe is the classifier alone, on features that are computed once.
    return linear_probe.train(run, owned) if run.linear_probe else _train(run, owned)


def _train(run: settings.Run, owned: work_directory.WorkDirectory) -> dict[str, Any]:
  """Trains all that is not frozen."""
  plan, workdir = run.plan, owned.path
  new_secret = _new_secret(run)
  sharding = _sharding(run, new_secret)
  train_step = steps.make_train_step(run.network, run.optimizer, run.step, sharding=sharding)
  gather = steps.make_gather(sharding)
  eval_step = steps.make_eval_step(run.network, run.data.test_layout)
  is_main = processes.is_main()

  # ------------------------------------------------------------------ start or resume
  with (
    checkpoints.Checkpointer(
      workdir, run.keep_checkpoints, run.on_save_failure, sharding
    ) as checkpointer,
    preemption.Preemption(after_a_step=True) as asked,
  ):
    interruption.explain(checkpointer.whence)
    state = _first_state(run, checkpointer, sharding, new_secret)
    agreement.meet()
    start = int(state.step)
    num_params = sum(math.prod(x.shape) for x in jax.tree.leaves(sharding.whole.params))
    processes.say(_introduction(run, num_params, sharding, workdir))
    platforms.warn_of_dtype(run.step.compute_dtype)
    if run.budget is not None:
      processes.say(run.budget.plan())
    if start:
      owned.claim()  # of an older run, which does not say what its data were
      processes.say(f'Resuming at step {start}.')

    # ---------------------------------------------------------------- the loop
    policy = nonfinite.Policy(run.on_nonfinite, workdir, run.network, run.layout, gather)
    evaluation_steps = plan.evaluation_steps(run.evaluate_every_epochs)
    pace = progress.Progress(
      total_steps=plan.total_steps,
      steps_per_epoch=plan.steps_per_epoch,
      images_per_step=run.data.global_batch_size,
      start_step=start,
    )
    tested: dict[str, float] = {}
    halted = steps.replicate(np.float32(0))
    stopped = False
    with (
      recording.MetricWriter(workdir, resume_step=start or None, active=is_main) as writer,
      _train_batches(run, state, workdir) as batches,
      profiling.Profile(workdir, run.profile if is_main else '') as profile,
    ):
      log = progress.StepLog(
        writer, pace, every=run.log_every_steps, first=start + 1, last=plan.total_steps
      )
      of_sam: dict[str, float] = {}

      def finished(step: int, step_metrics: dict[str, jax.Array], batch: data.Batch) -> None:
        """Looks at a step once it is there; later ones may be under way, and none is waited for."""
        policy.check(step, step_metrics, batch, state)
        if step == start + 1:  # it compiled, which the rate must not contain
          pace.restart(step)
        if log.due(step):
          log.write(step, step_metrics, of_sam if step == start + 1 else {}, run.budget)

      in_flight = steps.InFlight(finished)
      if start < plan.total_steps:
        processes.say(waiting.compiling('the train step'))
      for step in range(start + 1, plan.total_steps + 1):
        with pace.waiting_for_data():
          batch = next(batches)
        if step == start + 1 and run.sam_timing:
          of_sam |= _sam_seconds(run, gather(state.params), state.network_state, batch)
        profile.before(step)
        state, step_metrics = train_step(state, batch, halted)
        halted = policy.halts(step_metrics)
        in_flight.add(step, step_metrics, batch)
        profile.after(step, state)
        last = step == plan.total_steps
        stopped = asked.requested(step) and not last

        if step == start + 1:
          in_flight.drain()
        if step in evaluation_steps:
          in_flight.drain()
          if not tested:
            processes.say(waiting.compiling('the evaluation'))
          began = time.monotonic()
          tested = _evaluate(run, eval_step, state, gather)
          log.write_test(step, tested)
          processes.say(
            f'step {step}  test top-1 {tested["top1"]:.2%}, EMA {tested["top1_ema"]:.2%} of '
            f'{tested["count"]} images ({time.monotonic() - began:.1f} s)'
          )
          pace.restart(step)
        if step % run.checkpoint_every_steps == 0 or last or stopped:
          in_flight.drain()
          owned.claim()
          checkpointer.save(state)  # after the evaluation: a resumed run has its figures
        if stopped:
          break

    if stopped:
      checkpointer.wait()
      processes.say(f'Asked to stop after step {step}. {checkpointer.whence()}')
      return {}

  # -------------------------------------------------------------------- report
  policy.check_end(state)
  if run.budget is not None:
    processes.say(run.budget.outcome())
  if not tested:  # an earlier process was done
    processes.say(waiting.compiling('the evaluation'))
    tested = _evaluate(run, eval_step, state, gather)
  figures = {
    **tested,
    'corrupt_training_pictures': batches.unreadable.count(),
    'parameters': num_params,
  }
  return results.write(run, workdir, gather(state.ema_params), state.ema_network_state, figures)


def _sharding(run: settings.Run, new_secret: Any) -> update_sharding.UpdateSharding:
  """What of the state each device has."""
  num_shares = update_sharding.num_shares(run.sharded_update, jax.devices())
  *size, channels = run.data.train_shape
  return steps.plan_sharding(
    run.network, run.optimizer, tuple(size), num_shares, new_secret, channels=channels
  )


def _new_secret(run: settings.Run) -> Any:
  """Of a private run: no part of it follows from the seed, which anybody may know."""
  if run.budget is None:
    return ()
  return secret.as_arrays(agreement.from_main(secret.new))


def _first_state(
  run: settings.Run,
  checkpointer: checkpoints.Checkpointer,
  sharding: update_sharding.UpdateSharding,
  new_secret: Any,
) -> steps.TrainState:
  """The newest checkpoint; without any, the pretrained weights or fresh ones. On the devices."""
  restored = checkpointer.restore(like=sharding.whole)
  if restored is not None:
    return sharding.place(restored)
  *size, channels = run.data.train_shape
  fresh = steps.init_network(run.network, run.step.seed, tuple(size), channels)
  if run.pretrained:
    fresh = initial_weights.start_from(
      run.pretrained,
      *jax.device_get(fresh),
      new_head=run.new_head,
      class_names=run.info.class_names,
      spec=run.spec,
    )
    same_run.require_weights(fresh)
    processes.say(f'Starting from the weights of {run.pretrained}.')
  return sharding.place(steps.begin(run.optimizer, *fresh, new_secret))


def _train_batches(
  run: settings.Run, state: steps.TrainState, workdir: pathlib.Path
) -> data.Batches:
  sampling = None
  if run.budget is not None:
    sampling = secret.sampling(state.secret, run.budget, run.step.private, jax.device_count())
  return data.train_batches(
    run.data,
    int(state.step),
    **processes.share(),
    layout=run.layout,
    workdir=workdir,
    sampling=sampling,
  )


def _introduction(
  run: settings.Run,
  num_params: int,
  sharding: update_sharding.UpdateSharding,
  workdir: pathlib.Path,
) -> str:
  noun = 'sounds' if run.data.is_sound else 'images'
  repeats = run.data.augmentations_per_image
  batch = f'{run.data.global_batch_size}'
  if repeats > 1:
    batch += f' ({run.data.global_batch_size // repeats} {noun}, {repeats} draws of each)'
  shared = '' if sharding.is_whole else f', update shared out among {sharding.num_shares}'
  return (
    f'{run.model_title}: {num_params:,} parameters, {run.num_classes} classes. '
    f'{run.info.num_train:,} training and {run.info.num_test:,} test {noun} of '
    f'{run.data.title!r} at {run.data.size_title}. '
    f'{run.plan.total_steps:,} steps of {batch} on {jax.device_count()} '
    f'{jax.default_backend()} device(s), {run.step.compute_dtype}{shared}. Results go to {workdir}.'
  )


def _evaluate(
  run: settings.Run, eval_step: Any, state: steps.TrainState, gather: Callable[[Any], Any]
) -> dict[str, float]:
  """The figures of the raw and of the averaged weights on the test set."""
  networks = {
    '': (gather(state.params), state.network_state),
    '_ema': (gather(state.ema_params), state.ema_network_state),
  }
  layout = run.data.test_layout
  with data.test_batches(run.data, **processes.share(), layout=layout) as batches:
    return evaluation.evaluate(eval_step, networks, batches, run.info.num_test)


def _sam_seconds(
  run: settings.Run, params: Any, network_state: Any, batch: data.Batch
) -> dict[str, float]:
  """What SAM adds to a step."""
  seconds = steps.ascent_seconds(run.network, run.step, params, network_state, batch)
  processes.say(f'SAM: the ascent takes {seconds:.3g} s of each step.')
  return {'sam_seconds_per_step': seconds}


def main(argv: list[str] | None = None) -> int:
  """Trains what the flags say; without --config the digits, in minutes on two CPU cores."""
  config = command_line.define_config('digits', 'What to train.')
  workdir = flags.DEFINE_string('workdir', None, 'Where results go. Default: runs/<config name>.')
  code_when_stopped = flags.DEFINE_integer(
    'exit_code_when_stopped',
    75,
    'Of a run that SIGTERM, SIGHUP or Ctrl-C made save its state and end: 75 tells a scheduler to '
    'try again (EX_TEMPFAIL); 0 that all is well.',
    lower_bound=0,
    upper_bound=255,
  )

  def program() -> int:
    if config.value.keep_freed_memory and not host_memory.accelerator_is_installed():
      host_memory.keep_freed_memory()
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).stem
    directory = local_paths.require(workdir.value or f'runs/{name}', '--workdir')
    with processes.together():
      compilation_cache.enable(config.value.compilation_cache)
      settings.require_effect(config.value, command_line.given_fields())
      figures = train(config.value, directory)
      return 0 if figures else code_when_stopped.value

  command_line.run(program, argv)


if __name__ == '__main__':
  main()
