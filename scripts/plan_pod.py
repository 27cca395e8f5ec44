"""Plans a training run on a TPU pod, on a machine without one: does it fit, how long does it take?

nfnets plan-pod --config=nfnet_imagenet:F3 --topology=v5p:4x4x4
nfnets plan-pod --config=nfnet_imagenet:F0 --topology=v3:4x4 --largest
nfnets plan-pod --config=nfnet_imagenet:F0 --topology=v3:4x4 --sweep=F0.png

It compiles the train step of the config with the TPU's own compiler (the extra `tpu`) and reads the
compiler's figures. Compiling takes minutes; the figures are kept, so asking again takes seconds.
docs/pods.md says what they mean and what they leave out.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import dataclasses
import io
import math
import pathlib
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
import simplejpeg
from absl import flags
from matplotlib.figure import Figure

from experiments import data
from experiments.pods import chips, plan
from experiments.runtime import atomic_files, command_line, output_files
from experiments.training import settings

GIB = 2**30
SMALLER = (
  'to fit     --largest finds the batch that does; more devices, --config.accumulation_steps=2 or '
  "--config.model.remat='(0, 1, 2, 3)' need less per device"
)
SWEEP = (0.25, 0.5, 1, 1.5, 2)  # batches of the drawing, in shares of the asked one


def say(line: str) -> None:
  """Progress goes to the error stream, the plan to the output."""
  print(line, file=sys.stderr, flush=True)


def report(one: plan.Estimate, run: settings.Run, host_rate: float | None) -> str:
  """Formats what one estimate says of a run."""
  topology, chip = one.topology, one.topology.chip
  lines = [
    f'{run.variant} at {run.data.image_size} px, {run.step.compute_dtype}, on '
    f'{topology.name}: {topology.num_devices} devices on {topology.num_hosts} host(s), batch '
    f'{one.global_batch} = {one.batch} per device'
  ]
  used = f'{one.memory / GIB:.2f} of {chip.usable / GIB:.2f} GiB per device'
  if one.costs is None:
    lines += [f'memory     at least {used}: DOES NOT FIT', SMALLER]
    return '\n'.join(lines)
  costs = one.costs
  lines += [
    f'memory     {used}: {"fits" if one.fits else "DOES NOT FIT"} (state and batch '
    f'{costs.argument_bytes / GIB:.2f}, temporary {costs.temporary_bytes / GIB:.2f}, program '
    f'{costs.code_bytes / GIB:.2f})',
    *([] if one.fits else [SMALLER]),
    f'work       {costs.flops / 1e12:.2f} TFLOP and {costs.bytes_accessed / 1e9:.2f} GB per device '
    f'and step, {costs.operations} operations in sequence ({costs.launched} run)',
    f'at peak    {one.floor_seconds * 1e3:.1f} ms per step at {chip.peak / 1e12:.1f} TFLOP/s: no '
    'step can be quicker',
  ]
  if one.step_seconds is None:
    lines.append(
      f'estimate   none: for {topology.kind} the compiler gives no cycles, or its clock is not '
      'published'
    )
    return '\n'.join(lines)
  milliseconds = one.step_seconds * 1e3
  lines.append(
    f'estimate   {milliseconds:.1f} ms per step: {costs.cycles:,} cycles at {chip.clock / 1e6:.0f} '
    f'MHz ({chip.clock_source}), what is sent around and launches left out'
  )
  published = plan.PUBLISHED_MS.get(run.variant)
  if published and topology.kind == 'v3' and one.batch == 32:
    lines.append(
      f'published  {published:.1f} ms measured on TPUv3 at 32 per core; estimate / published '
      f'{milliseconds / published:.2f}'
    )
  epochs, examples = run.config['num_epochs'], run.info.num_train
  repeats = run.data.augmentations_per_image
  hours = one.hours(epochs, examples * repeats)
  needed = one.host_images_per_second()
  sent = (
    ('all-reduce', one.all_reduce_seconds, costs.all_reduce_bytes, 'gradients'),
    ('scatter', one.reduce_scatter_seconds, costs.reduce_scatter_bytes, 'gradients'),
    ('all-gather', one.all_gather_seconds, costs.all_gather_bytes, 'parameters'),
  )
  lines += [
    f'{name:10} {seconds * 1e3:.2f} ms more at the least, if nothing overlaps: '
    f'{size / 1e6:.0f} MB of {what} over the links of {topology.name}'
    for name, seconds, size, what in sent
    if size
  ]
  lines += [
    f'run        {one.images_per_second():,.0f} images/s, {hours:.1f} hours for '
    f'{epochs:g} epochs of {examples:,} images'
    + (f', {repeats} draws of each' if repeats > 1 else ''),
    f'input      each host has to prepare {needed:,.0f} images/s',
  ]
  if host_rate:
    lines.append(
      f'           this one prepares {host_rate:,.0f}: '
      + ('enough' if host_rate >= needed else f'{needed / host_rate:.1f} times too slow')
    )
  return '\n'.join(lines)


def measure_host(run: settings.Run, seconds: float = 5.0) -> float:
  """Images per second that this host prepares as the config says, of generated JPEG pictures."""
  repeats = run.data.augmentations_per_image
  with interruption.temporary_folder() as folder:
    _write_pictures(pathlib.Path(folder))
    chosen = dataclasses.replace(
      run.data,
      global_batch_size=math.ceil(64 / repeats) * repeats,
      source='folder',
      dir=folder,
      num_workers=0,
      train_split='train',
    )
    with data.train_batches(chosen, 0, num_devices=1) as batches:
      next(batches)
      began, count = time.monotonic(), 0
      while time.monotonic() < began + seconds:
        count += next(batches).labels.size
      return count / (time.monotonic() - began)


def _write_pictures(folder: pathlib.Path, count: int = 64) -> None:
  """Smooth random pictures of ImageNet's usual size, in two classes."""
  rng = np.random.default_rng(0)
  for i in range(count):
    coarse = rng.integers(0, 256, (24, 32, 3))
    picture = np.kron(coarse, np.ones((16, 16, 1))) + rng.normal(0, 8, (384, 512, 3))
    path = folder / 'train' / f'class{i % 2}' / f'{i}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(np.uint8(np.clip(picture, 0, 255)), 90))


def draw(estimates: Sequence[plan.Estimate], title: str) -> bytes:
  """Draws memory and time against the batch per device; returns a PNG."""
  figure = Figure(figsize=(8, 3.4), layout='constrained')
  memory, speed = figure.subplots(1, 2)
  batches = [one.batch for one in estimates]
  memory.plot(batches, [one.memory / GIB for one in estimates], marker='o')
  there_is = estimates[0].topology.chip.usable / GIB
  memory.axhline(there_is, color='tab:red', linestyle='--', label=f'there are {there_is:.2f} GiB')
  memory.legend()
  memory.set_ylabel('memory of a device, GiB')
  timed = [one for one in estimates if one.step_seconds]
  speed.plot([one.batch for one in timed], [one.step_seconds * 1e3 for one in timed], marker='o')
  speed.set_ylabel('estimated step, ms')
  for axes in (memory, speed):
    axes.set_xlabel('images per device')
    axes.update_datalim([(batches[0], 0)])  # for a margin above that is a share of the whole
    axes.autoscale_view()
    axes.set_ylim(bottom=0)
  figure.suptitle(title, parse_math=False)
  out = io.BytesIO()
  figure.savefig(out, format='png', dpi=120)
  return out.getvalue()


def show() -> None:
  """Prints the plan that the flags ask for."""
  jax.config.update('jax_platforms', 'cpu')  # with libtpu installed JAX would look for a TPU
  values = flags.FLAGS
  config = values['config'].value.copy_and_resolve_references()
  settings.require_effect(config, command_line.given_fields())
  if values.sweep:
    sweep = output_files.require(values.sweep, '--sweep', suffixes=('.png',))
  topology = chips.parse_topology(values.topology)
  pictures = data.TrainingPictures(values.examples)
  asked = values.batch or settings.resolve(config, pictures).global_batch_size
  batch = plan.per_device_batch(asked, topology)
  with config.unlocked():
    config.global_batch_size = batch * topology.num_devices
  info = data.DatasetInfo(
    values.examples, 0, config.model.num_classes or values.classes, class_names=()
  )
  run = settings.read(config, info, backend='tpu')
  planner = plan.Planner(run, topology, say=say)
  one = planner.estimate(batch)
  host_rate = values.host_rate or (measure_host(run) if one.step_seconds else None)
  print(report(one, run, host_rate), flush=True)
  if planner.compiled_for != topology:
    print(
      f'           (compiled for {planner.compiled_for.name}: the program of a device is the same)'
    )
  if values.largest:
    largest = plan.largest_batch(planner.estimate, one, multiple=values.multiple)
    if largest is None:
      print(f'largest    not even {values.multiple} images per device fit')
    else:
      print(
        f'largest    {largest.batch} images per device fit, {largest.global_batch} in all '
        f'({largest.memory / GIB:.2f} GiB), of the multiples of {values.multiple}'
      )
  if values.sweep:
    sizes = sorted({max(1, round(batch * share)) for share in SWEEP})
    picture = draw([planner.estimate(size) for size in sizes], f'{run.variant} on {topology.kind}')
    atomic_files.replace(sweep, lambda p: p.write_bytes(picture))
    print(f'drawn      {sweep}')


def main(argv: list[str] | None = None) -> int:
  """Plans what the flags say."""
  command_line.define_config('nfnet_imagenet:F0', 'The run.')
  flags.DEFINE_string('topology', 'v3:2x2', 'Chip and shape of the slice, such as v5p:4x4x4.')
  flags.DEFINE_integer('batch', None, "Global batch. Default: the config's.")
  flags.DEFINE_integer('examples', 1_281_167, "Training images. Default: ImageNet's.")
  flags.DEFINE_integer('classes', 1000, 'Classes, where the config leaves them to the data.')
  flags.DEFINE_float('host_rate', None, 'Images/s that a host prepares. Default: measured here.')
  flags.DEFINE_bool('largest', False, 'Find the largest batch that fits, by compiling.')
  flags.DEFINE_integer('multiple', 8, 'Of what the largest batch per device is a multiple.')
  flags.DEFINE_string('sweep', None, 'Draw memory and time against the batch: a PNG file.')
  command_line.run(show, argv)


if __name__ == '__main__':
  main()
