"""Signal propagation plots, and a check that says in words what is wrong with a network's signal.

nfnets plot-signal --out docs/figures/signal_propagation.png
nfnets plot-signal --model F0 --out docs/figures/signal_propagation_f0.png
nfnets plot-signal --check --model NF-ResNet-50
nfnets plot-signal --check --weights runs/mine
nfnets plot-signal --check --function my_package.my_module:forward

Without a network: the figures 1 and 2 of [SigProp] (arXiv 2101.08692), a ResNet of 200 blocks with
batch normalisation, without, and normalizer-free with and without its parts. A function is called
inside hk.transform with images [N, H, W, 3] and may return anything. Networks that are not from a
file are freshly initialised, with their residual branches opened (skip gains at 1). The numbers go
beside the picture as JSON. Exit code of --check: 0 if nothing is wrong, 1 if something is, 2 if it
could not be measured.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.reporting import plot_style
from experiments.runtime import atomic_files, output_files, platforms
from nfnets import mean_field, zoo
from nfnets.signal_propagation import BlockStatistics, diagnose
from scripts.signal_networks import (
  Curve,
  Subject,
  compare,
  make_images,
  measure,
  of_function,
  of_spec,
  of_weights,
  theory,
)

FIELDS = {
  'average_squared_mean': 'average squared channel mean',
  'average_variance': 'average channel variance',
  'branch_variance': 'residual branch variance',
}
Rows = Sequence[BlockStatistics]


def largest_gap(measured: Sequence[float], expected: Sequence[float]) -> tuple[float, int]:
  """The largest |measured / expected - 1|, and where it is."""
  gaps = np.abs(np.array(measured) / np.array(expected) - 1)
  return float(gaps.max()), int(gaps.argmax())


def draw_comparison(curves: Sequence[Curve], expected: Sequence[Sequence]) -> Figure:
  """Draws the healthy networks with their theory above, and all on logarithmic axes below."""
  figure = Figure(figsize=(12, 7.4), dpi=110, layout='constrained')
  grid = figure.subplots(2, 3)
  lines = {}
  for column, (field, title) in enumerate(FIELDS.items()):
    for row, axes in enumerate(grid[:, column]):
      for curve in curves[: 2 if row == 0 else None]:
        (line,) = axes.plot(
          *_points(curve.rows, field), curve.style, color=curve.colour, linewidth=1.8
        )
        lines.setdefault(curve.label, line)
      if row == 0:
        for moments in expected:
          values = [getattr(m, _THEORY[field]) for m in moments]
          (line,) = axes.plot(
            range(1, len(values) + 1), values, color='black', linewidth=0.9, dashes=(4, 3)
          )
          lines['theory of these two'] = line
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
      else:
        axes.set_yscale('log')
        lows = [min(v for v in _points(curve.rows, field)[1] if v > 0) for curve in curves]
        axes.set_ylim(max(min(lows) / 2, 1e-9), 1e6)
      _dress(axes, title)
  grid[0, 0].set_ylabel('healthy (linear axis)')
  grid[1, 0].set_ylabel('all (logarithmic axis)')
  order = [c.label for c in curves[:2]] + ['theory of these two'] + [c.label for c in curves[2:]]
  figure.legend(
    [lines[label] for label in order], order, loc='outside upper center', ncols=2, frameon=False
  )
  return figure


def draw(subject: Subject, rows: Rows, expected: Sequence | None) -> Figure:
  """Draws one network: its three statistics, and the theory if there is one."""
  figure = Figure(figsize=(12, 3.9), dpi=110, layout='constrained')
  for axes, (field, title) in zip(figure.subplots(1, 3), FIELDS.items(), strict=True):
    points = _points(rows, field)
    axes.plot(*points, 'o', color=plot_style.BLUE, markersize=5, label='measured', zorder=3)
    values = list(points[1])
    if expected and not (field == 'average_squared_mean' and not expected[0].squared_mean):
      values += (line := [getattr(m, _THEORY[field]) for m in expected])
      axes.plot(range(1, len(line) + 1), line, '-', color='black', label='theory for white noise')
    if field == 'average_variance' and hasattr(subject.spec, 'alpha') and expected:
      values += (line := mean_field.design(subject.spec))
      label = r'design, $1 + k\alpha^2$'
      axes.plot(range(1, len(line) + 1), line, '--', color=plot_style.VERMILION, label=label)
    positive = [value for value in values if value > 0]
    if positive and max(positive) > 30 * min(positive):
      axes.set_yscale('log')
    else:
      axes.set_ylim(0, 1.15 * max(positive, default=1))
    axes.legend(frameon=False, fontsize='small')
    for i, row in enumerate(rows):
      if row.changes_shape and i:
        axes.axvline(i + 0.5, color='0.75', linewidth=0.8, zorder=0)
    _dress(axes, title)
  figure.suptitle(subject.name, fontsize='large', parse_math=False)
  return figure


_THEORY = {
  'average_squared_mean': 'squared_mean',
  'average_variance': 'variance',
  'branch_variance': 'branch_variance',
}


def _points(rows: Rows, field: str) -> tuple[list[int], list[float]]:
  """Block numbers from 1, and the values that are there and finite."""
  found = [(i, getattr(row, field)) for i, row in enumerate(rows, 1)]
  found = [(i, value) for i, value in found if value is not None and np.isfinite(value)]
  return [i for i, _ in found], [value for _, value in found]


def _dress(axes: Axes, title: str) -> None:
  axes.set_title(title, fontsize='medium', parse_math=False)
  axes.set_xlabel('block')
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  plot_style.tidy(axes)


def report_gaps(name: str, rows: Rows, expected: Sequence[mean_field.Moments]) -> None:
  """Prints how far the measurement is from the theory."""
  pairs = {'variance': ([r.average_variance for r in rows], [m.variance for m in expected])}
  if expected[0].squared_mean:
    pairs['second moment'] = (
      [r.average_variance + r.average_squared_mean for r in rows],
      [m.variance + m.squared_mean for m in expected],
    )
  for what, (measured, predicted) in pairs.items():
    gap, place = largest_gap(measured, predicted)
    print(
      f'{name}: largest gap between measured and predicted {what} {gap:.1%}, at block '
      f'{place + 1} of {len(rows)} ({measured[place]:.4g} against {predicted[place]:.4g})'
    )


def check(subject: Subject, rows: Rows) -> int:
  """Says what is wrong with a network; returns the exit code."""
  findings = diagnose(rows)
  for finding in findings:
    print(f'{subject.name}: {finding}')
  if not findings:
    variances = [row.average_variance for row in rows]
    shift = max(row.average_squared_mean / row.average_variance for row in rows)
    print(
      f'{subject.name}: nothing wrong. {len(rows)} blocks; variance {min(variances):.3g} to '
      f'{max(variances):.3g}, from {rows[0].input_variance:.3g} before the first; squared channel '
      f'mean at most {shift:.2g} of the variance.'
    )
  return 1 if findings else 0


@platforms.explained()
def run(options: argparse.Namespace) -> int:
  """Does what the arguments say; returns the exit code."""
  subject = None
  if options.model:
    subject = of_spec(options.model, zoo.get_spec(options.model))
  elif options.weights:
    subject = of_weights(options.weights)
  elif options.function:
    subject = of_function(options.function)
  size = options.size or (subject.size if subject else 64)
  kind = options.images or ('pink' if options.check else 'white')
  is_of_zoo = subject is not None and subject.spec is not None
  channels = zoo.input_shape(subject.spec)[-1] if is_of_zoo else 3
  images = make_images(kind, options.batch, size, options.seed, channels)
  code = 0
  if subject is None:
    _say_measuring('five networks')
    curves, subjects = compare(options.depth, images, options.seed)
    expected = [theory(subjects[name]) for name in ('bn', 'nf')]
    for curve, moments in zip(curves[:2], expected, strict=True):
      report_gaps(curve.label, curve.rows, moments)
    for curve in curves:
      check(Subject(curve.label, None, size), curve.rows)
    figure = draw_comparison(curves, expected)
    networks = {curve.label: curve.rows for curve in curves}
  else:
    _say_measuring(subject.name)
    rows = measure(subject, images, options.seed)
    expected = theory(subject) if kind == 'white' else None
    if expected:
      report_gaps(subject.name, rows, expected)
    if options.check:
      code = check(subject, rows)
    figure = draw(subject, rows, expected)
    networks = {subject.name: rows}
  if options.out:
    plot_style.save(figure, options.out)
    settings = {'images': kind, 'batch': options.batch, 'size': size, 'seed': options.seed}
    numbers = options.out.with_suffix('.json')
    atomic_files.replace(numbers, lambda p: p.write_text(as_json(settings, networks)))
    print(f'Wrote {options.out} and {numbers}.')
  return code


def _say_measuring(what: str) -> None:
  """Says what takes so long."""
  print(
    f'Measuring {what}, operation by operation: a minute on a CPU, more for deep networks.',
    file=sys.stderr,
    flush=True,
  )


def as_json(settings: dict[str, Any], networks: dict[str, Rows]) -> str:
  """The numbers of a figure, one statistic of one network a line."""

  def number(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f'{value:.5g}')

  lines = [f'"settings": {json.dumps(settings)}']
  for name, rows in networks.items():
    columns = {field: [number(getattr(row, field)) for row in rows] for field in FIELDS}
    inner = ',\n  '.join(f'{json.dumps(f)}: {json.dumps(v)}' for f, v in columns.items())
    lines.append(f'{json.dumps(name)}: {{\n  {inner}}}')
  return '{' + ',\n '.join(lines) + '}\n'


def main(argv: list[str] | None = None) -> int:
  """Parses the arguments; returns the exit code."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  network = parser.add_mutually_exclusive_group()
  network.add_argument('--model', help='a name of nfnets.list_models()')
  network.add_argument(
    '--weights', help="a file of this library, a run's folder or a published name"
  )
  network.add_argument('--function', metavar='MODULE:FUNCTION', help='a function of images')
  parser.add_argument('--check', action='store_true', help='say what is wrong, and where')
  parser.add_argument('--out', type=pathlib.Path, help='the picture; its numbers go beside it')
  parser.add_argument('--images', choices=('white', 'pink'), help='default: white, to --check pink')
  parser.add_argument('--size', type=int, help="side in pixels; default: the model's training size")
  parser.add_argument('--batch', type=int, default=4)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--depth', default='ResNet-600', help='of the comparison')
  options = parser.parse_args(argv)
  if not options.out and not options.check:
    parser.error('say --out PICTURE or --check')
  try:
    if options.check and not (options.model or options.weights or options.function):
      raise ValueError('--check needs --model, --weights or --function.')
    if options.out:
      inputs, suffixes = [options.weights], plot_style.SUFFIXES
      output_files.require(options.out, '--out', suffixes=suffixes, inputs=inputs, make_folder=True)
      output_files.refuse_overwrite(options.out.with_suffix('.json'), '--out', inputs)
    return run(options)
  except (ValueError, OSError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 2


if __name__ == '__main__':
  sys.exit(main())
