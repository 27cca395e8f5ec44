#!/usr/bin/env python3
r"""Measures speed and memory of prediction, gradient and train step, alone or beside others.

    nfnets benchmark F0 NF-RegNet-B1
    nfnets benchmark F0 --tasks predict,step --batches 1,8 --baseline published \
      --peer timm --out f0.json --chart f0.png
    nfnets benchmark F0 --tasks predict --runtime onnx,openvino --peer timm
    nfnets benchmark --compare before.json after.json

Models are names of nfnets.list_models(), or JSON files with the fields of a ModelSpec.

Tasks. 'predict': a batch of images that is on the device, to logits. 'gradient': the loss of a
batch and its gradient by all parameters, in training mode. 'step': the train step of
experiments/training/steps.py on one device, with the published recipe (AGC, Nesterov momentum,
averaged weights). Sizes are by default the model's test size for 'predict' and its train size for
the others. Dropout and stochastic depth are on in training, at the same rates for all contestants.
Weights are random; skip gains are 1, as at 0, where they start, branches would be all zeros.

Contestants:
  ours             this library; for 'predict' folded into plain convolutions (nfnets.deploy.fold)
  unfolded         (--baseline unfolded) the same without folding, only for 'predict'
  published        (--baseline published) the convolutions as the published code writes them: groups
                   left to XLA (nfnets.execution.strategy('plain', space_to_depth='off')), nothing
                   folded
  onnx, openvino   (--runtime onnx,openvino) the file of nfnets.deploy.export_onnx in ONNX Runtime,
                   with its default options, and in OpenVINO, told to compute in float32 and to
                   answer quickly; on the CPU, only for 'predict'
  timm             (--peer timm) timm's model of the same name on eager PyTorch, channels last;
  timm-contiguous  and in PyTorch's own layout. 'timm best' is the quicker one of each case. For
                   'predict': eval(), inference_mode(); for 'step' timm's own AGC, optimiser and
                   averaged weights. F0 is compared with dm_nfnet_f0, NF-RegNet-B1 with
                   nf_regnet_b1, NF-ResNet-50 with nf_resnet50; these are equal in architecture
                   but not in every detail
  timm-compiled    (--peer timm-compiled) after torch.compile

How. Each contestant of a case has a process of its own, by default with all threads that its
framework takes, and each process idles while another one works. A call begins and ends with an idle
device. After compilation and warm-up they take turns: in each round each is timed once, every round
beginning with another one, after one call that is not timed. Quick calls are repeated to 0.2 s and
averaged. Figures are medians over the rounds; the spread is the interquartile range by the median.
On a machine that others use, --processor-time compares what the clock cannot: the processor time of
one thread (of XLA's threads together), on a CPU only; waiting for others does not count. With
--alone one contestant ends before the next begins, for what does not fit into memory together, and
for a TPU, which one process holds at a time.

Memory is the peak after the warm-up. On a GPU, of what the framework holds there (JAX cannot forget
the peak of compilation, PyTorch can). On a CPU, the growth of the process's resident size since its
libraries were loaded: parameters, images, compiled programs and what the compiler left behind; and
beside it what of that comes and goes with a call, so activations, gradients and workspace.

FLOPs are two for each multiplication in convolutions and matrix products of the traced network as
published, the same number for every contestant of a row. The ceiling is the highest rate of a
square matrix product of the same dtype in the same run, of JAX or, with a peer, of PyTorch.

A contestant that fails, or runs out of memory, becomes a row that says so. The file of --out is
written after each case. Exit code 0: done; 1: it cannot be carried out; 2: wrong arguments.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from experiments.runtime import atomic_files, output_files
from experiments.runtime.errors import ConfigError
from nfnets import installation
from scripts.benchmarking import compare, machine, measure, scaling, serving, session, table
from scripts.benchmarking.child import ChildError

PEERS = ('timm', 'timm-compiled')
RUNTIMES = ('onnx', 'openvino')
BASELINES = ('published', 'unfolded')
DTYPES = ('float32', 'bfloat16')
_PICTURES = ('.png', '.svg', '.pdf')
# nfnets/host_memory.py says why; as variables it is the same for workers without this library.
KEEP_FREED_MEMORY = {
  'MALLOC_ARENA_MAX': '1',
  'MALLOC_MMAP_MAX_': '0',
  'MALLOC_TRIM_THRESHOLD_': str(2**63 - 1),
  'MALLOC_TOP_PAD_': str(64 << 20),
}


def main(argv: list[str] | None = None) -> int:
  """Does what the arguments say; returns the exit code."""
  arguments = _parse(argv)
  try:
    if arguments.compare:
      _compare(*arguments.compare)
    else:
      if arguments.keep_freed_memory:
        os.environ |= KEEP_FREED_MEMORY  # the workers inherit it
      if arguments.processor_time:
        os.environ |= {serving.CLOCK: 'processor', 'OMP_NUM_THREADS': '1'}
      if arguments.chart:
        _import_chart()  # rather now than at the end
      _report(arguments, session.run(arguments, sys.argv[1:] if argv is None else argv))
  except (ChildError, ImportError, OSError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('models', nargs='*', metavar='MODELS', help='names, or JSON files of specs')
  add('--tasks', type=_list_of(measure.TASKS), default=list(measure.TASKS), help='[all]')
  add('--batches', type=_numbers, default=[1, 8], help='images of a call [1,8]')
  add('--sizes', type=_numbers, help="pixels [the model's own]")
  add('--dtype', choices=DTYPES, default='float32', help='what is computed in [%(default)s]')
  add('--rounds', type=_positive, default=9, help='timings of each contestant [%(default)s]')
  limit = "stop a case's rounds after so long, if three are done"
  add('--seconds-limit', type=float, default=math.inf, metavar='S', help=limit)
  add('--baseline', type=_list_of(BASELINES), default=[], help=' or '.join(BASELINES))
  add('--runtime', type=_list_of(RUNTIMES), default=[], help=' or '.join(RUNTIMES))
  has = 'that has onnxruntime or openvino'
  add('--runtime-python', default=sys.executable, metavar='PYTHON', help=has)
  add('--peer', type=_list_of(PEERS), default=[], help=' or '.join(PEERS))
  add('--peer-python', default=sys.executable, metavar='PYTHON', help='that has torch and timm')
  add('--alone', action='store_true', help='one contestant after the other, without turns')
  only = 'processor time of one thread instead of the time of the clock'
  add('--processor-time', action='store_true', help=only)
  keep = 'all processes keep freed memory, as nfnets.keep_freed_memory makes it (glibc)'
  add('--keep-freed-memory', action='store_true', help=keep)
  add('--out', type=pathlib.Path, metavar='JSON', help='write all figures and timings here')
  add('--markdown', type=pathlib.Path, metavar='FILE', help='write the table as Markdown here')
  add('--chart', type=pathlib.Path, metavar='PNG', help='draw it here (or SVG, PDF)')
  add('--compare', nargs=2, type=pathlib.Path, metavar=('A', 'B'), help='two files of --out')
  arguments = parser.parse_args(argv)
  if bool(arguments.models) == bool(arguments.compare):
    parser.error('name models to measure, or two files with --compare')
  try:
    _check_outputs(arguments)
  except ConfigError as error:
    parser.error(str(error))
  return arguments


def _check_outputs(arguments: argparse.Namespace) -> None:
  inputs = [*arguments.models, *(arguments.compare or ())]
  for flag, suffixes in (('out', ()), ('markdown', ()), ('chart', _PICTURES)):
    if path := getattr(arguments, flag):
      output_files.require(path, f'--{flag}', suffixes=suffixes, inputs=inputs)
      inputs.append(path)


def _list_of(choices: Sequence[str]) -> Callable[[str], list[str]]:
  def names(text: str) -> list[str]:
    found = text.split(',')
    for name in found:
      if name not in choices:
        raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(choices)}')
    return list(dict.fromkeys(found))

  return names


def _positive(text: str) -> int:
  if not text.strip().isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
  return int(text)


def _numbers(text: str) -> list[int]:
  return sorted(set(map(_positive, text.split(','))))


def _compare(first: pathlib.Path, second: pathlib.Path) -> None:
  lines, remarks = compare.compare(compare.read(first), compare.read(second))
  print(f'a: {first}\nb: {second}\n')
  if len(lines) > 1:
    print(table.text(lines))
  else:
    print('The two files have no case in common.')
  if remarks:
    print('\n' + '\n'.join(remarks))


def _report(arguments: argparse.Namespace, results: Mapping[str, Any]) -> None:
  rows = results['results']
  lines = table.cells(rows)
  heading = machine.sentence(results)
  print(f'{heading}\n\n{table.text(lines)}')
  if arguments.markdown:
    text = f'{heading}\n\n{table.markdown(lines)}\n'
    atomic_files.replace(arguments.markdown, lambda p: p.write_text(text, encoding='utf-8'))
  if slopes := scaling.slopes(rows):
    print(f'\n{slopes}')
  if arguments.chart:
    chart = _import_chart()
    chart.plot_style.save(chart.draw(rows, heading), arguments.chart)
  if wrote := [
    str(path) for path in map(vars(arguments).get, ('out', 'markdown', 'chart')) if path
  ]:
    print(f'\nWrote {", ".join(wrote)}.')


def _import_chart() -> ModuleType:
  try:
    from scripts.benchmarking import chart
  except ImportError:
    needed = installation.command('train')
    raise ImportError(f'--chart draws with matplotlib: {needed}') from None
  return chart


if __name__ == '__main__':
  sys.exit(main())
