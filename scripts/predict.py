#!/usr/bin/env python3
"""Labels pictures.

    nfnets predict cat.jpg dog.png --weights F0
    nfnets predict photos/ --weights runs/mine --sheet sheet.png

PICTURES are files, folders (searched at every depth) and patterns in quotes. Of a folder the same
files count as in training; what is skipped is counted and named. A picture that cannot be read is
named and left out. Exit code 0: all done; 1: some or all failed; 2: wrong arguments; 141: whoever
read the output has stopped (`| head`).
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

import nfnets
from experiments.runtime import atomic_files, compilation_cache, output_files, platforms
from experiments.runtime.errors import ConfigError
from nfnets import classifier as classifiers
from nfnets import inference, installation, picture_files, picture_sources
from nfnets.deploy import runtimes

_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports of a program that the signal ended
_SHEET_LIMIT = 60  # pictures
_SHEETS = ('.png', '.svg', '.pdf', '.jpg')
_THUMBNAIL = 480  # pixels, the longer side


class Result(NamedTuple):
  """A labelled picture."""

  path: pathlib.Path
  image: np.ndarray  # uint8 [h, w, 3], reduced
  predictions: list[classifiers.Prediction]


def main(argv: list[str] | None = None) -> int:
  """Labels what the arguments name; returns the exit code."""
  for stream in (sys.stdout, sys.stderr):
    stream.reconfigure(errors='backslashreplace')  # a terminal may lack a letter of a file name
  args = _parse(argv)
  try:
    code = _label(args)
    sys.stdout.flush()
    return code
  except BrokenPipeError:
    # The interpreter flushes once more at its end, which must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
  except (ImportError, OSError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1


@platforms.explained()
def _label(args: argparse.Namespace) -> int:
  failures: dict[str, str] = {}  # picture -> reason
  skipped: list[str] = []  # a line for each folder
  paths = find_pictures(args.pictures, failures, skipped)
  for path, flag in ((args.features, '--features'), (args.sheet, '--sheet')):
    if path:
      output_files.refuse_overwrite(path, flag, paths)
  # What is missing is said now, rather than after the work.
  runtimes.choose(args.runtime, args.dtype)
  if args.sheet:
    _import_drawing()
  for name, reason in failures.items():
    _report_failure(name, reason, args.json)
  if not paths:  # rather than fetch weights for nothing
    return _conclude(paths, failures, skipped)
  compilation_cache.enable()
  classifier = nfnets.Classifier.from_pretrained(
    args.weights,
    size=args.size,
    mode=args.mode,
    dtype=args.dtype,
    batch_size=1 if len(paths) == 1 else args.batch_size,
    runtime=args.runtime,
  )
  if args.size or args.mode:
    print(f'Pictures are prepared so: {classifier.preprocessing}.', file=sys.stderr)
  names = ('logits',)
  if args.features:
    names = classifier.feature_names if args.maps else ('logits', 'pool')
  results, features = [], []
  exact = classifier.preprocessing.is_exact
  for chunk, images in _read(paths, classifier.batch_size, exact, failures, args.json):
    outputs = classifier.features(images, names)
    for path, image, logits in zip(chunk, images, outputs['logits'], strict=True):
      predictions = classifier.rank(logits, args.top)
      _print(path, predictions, args.json)
      if args.sheet and len(results) < _SHEET_LIMIT:
        results.append(Result(path, _thumbnail(image), predictions))
    if args.features:
      paths_text = [picture_files.printable(str(path)) for path in chunk]
      features.append({'paths': paths_text, **outputs})
  if features:
    _save_features(args.features, features, classifier.class_names)
    print(f'The features are in {args.features}.', file=sys.stderr)
  if args.sheet and results:
    draw_sheet(results, args.sheet)
    count = f'first {_SHEET_LIMIT} ' if len(paths) > len(results) == _SHEET_LIMIT else ''
    print(f'{args.sheet} shows the {count}pictures.', file=sys.stderr)
  return _conclude(paths, failures, skipped)


def _conclude(paths: list[pathlib.Path], failures: dict[str, str], skipped: list[str]) -> int:
  """Says what was skipped and how many pictures could not be used; returns the exit code."""
  for line in skipped:
    print(line, file=sys.stderr)
  if failures:
    total = len(paths) + sum(name not in map(str, paths) for name in failures)
    print(f'{len(failures)} of {total} could not be used.', file=sys.stderr)
  return 1 if failures else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('pictures', nargs='+', metavar='PICTURES', help='files, folders or patterns')
  add('--weights', default='F0', help="a published name, a file or a run's folder (default: F0)")
  add('--top', type=_positive, default=5, help='classes to name (default: 5)')
  add('--json', action='store_true', help='print one JSON object per picture and line')
  add('--sheet', type=pathlib.Path, metavar='PNG', help='draw the pictures with their labels')
  add(
    '--features',
    type=pathlib.Path,
    metavar='FILE',
    help='write pooled vectors to .npy, or with logits, paths and class names to .npz',
  )
  add('--maps', action='store_true', help='add the maps of the stem and the stages to the .npz')
  add('--size', type=_positive, help="pixels that pictures are brought to (default: the weights')")
  modes = ', '.join(inference.EVALUATION_MODES)
  modes_help = f"how: one of {modes} (default: the weights')"
  add('--mode', choices=inference.EVALUATION_MODES, metavar='MODE', help=modes_help)
  add('--dtype', choices=classifiers.DTYPES, default='float32', help='what the network computes in')
  add('--batch_size', type=_positive, help='pictures at a time')
  add('--runtime', choices=runtimes.RUNTIMES, help='what computes (default: the quicker one here)')
  args = parser.parse_args(argv)
  if args.features and args.features.suffix not in ('.npy', '.npz'):
    parser.error(f'--features must end in .npy or .npz, got {args.features}')
  if args.maps and (args.features is None or args.features.suffix != '.npz'):
    parser.error('--maps needs --features FILE.npz')
  try:
    if args.features:
      output_files.require(args.features, '--features', inputs=[args.weights])
    if args.sheet:
      inputs = [args.weights, args.features]
      output_files.require(args.sheet, '--sheet', suffixes=_SHEETS, inputs=inputs)
  except ConfigError as error:
    parser.error(str(error))
  return args


def _positive(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError(f'must be at least 1, got {number}')
  return number


def find_pictures(
  arguments: list[str], failures: dict[str, str], skipped: list[str]
) -> list[pathlib.Path]:
  """Returns the files that the arguments mean, each once, in order; what means none is a failure.

  Args:
    arguments: files, folders and patterns.
    failures: receives argument -> reason.
    skipped: receives a line for each folder in which something is skipped, by the rules of
      `picture_files.walk`.
  """
  found: dict[pathlib.Path, None] = {}
  for argument in arguments:
    try:
      found.update(dict.fromkeys(picture_sources.find(argument, skipped)))
    except FileNotFoundError as error:
      failures[argument] = str(error)
  return list(found)


def _read(
  paths: list[pathlib.Path],
  count: int,
  exact: bool,
  failures: dict[str, str],
  as_json: bool,
) -> Iterator[tuple[list[pathlib.Path], list[np.ndarray]]]:
  """Yields up to `count` readable pictures [H, W, 3] at a time; reports the others."""
  chunk, images = [], []
  for number, path in enumerate(paths, start=1):
    try:
      images.append(inference.read_picture(path, exact=exact))
      chunk.append(path)
    except (OSError, ValueError) as error:
      reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
      failures[str(path)] = reason
      _report_failure(str(path), reason, as_json)
    if chunk and (len(chunk) == count or number == len(paths)):
      yield chunk, images
      chunk, images = [], []


def _print(path: pathlib.Path, predictions: list[classifiers.Prediction], as_json: bool) -> None:
  if as_json:
    ranked = [prediction._asdict() for prediction in predictions]
    print(json.dumps({'picture': str(path), 'predictions': ranked}), flush=True)
    return
  lines = [f'{p.probability:8.2%}  {p.label} ({p.index})' for p in predictions]
  print('\n'.join([picture_files.printable(str(path)), *lines]), flush=True)


def _report_failure(name: str, reason: str, as_json: bool) -> None:
  if as_json:
    print(json.dumps({'picture': name, 'error': reason}), flush=True)
  print(f'{picture_files.printable(name)}: {reason}', file=sys.stderr, flush=True)


def _save_features(
  path: pathlib.Path, parts: list[dict[str, np.ndarray]], class_names: tuple[str, ...]
) -> None:
  features = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

  def write(temporary: pathlib.Path) -> None:
    with temporary.open('wb') as file:  # given a path, numpy would add a suffix
      if path.suffix == '.npy':
        np.save(file, features['pool'])
      else:
        np.savez(file, class_names=class_names, **features)

  atomic_files.replace(path, write)


def _thumbnail(image: np.ndarray) -> np.ndarray:
  small = Image.fromarray(image)
  small.thumbnail((_THUMBNAIL, _THUMBNAIL))
  return np.asarray(small)


def draw_sheet(results: list[Result], path: pathlib.Path) -> None:
  """Draws pictures, each above its labels with bars as long as their probabilities.

  Raises:
    ImportError: matplotlib is not installed.
    OSError: the file cannot be written.
  """
  Figure, plot_style = _import_drawing()
  columns = min(len(results), 4 if len(results) > 6 else 3)
  rows = math.ceil(len(results) / columns)
  bars = max(len(result.predictions) for result in results)
  # In inches: a cell is a margin, the bars, a gap, the picture and room for its name.
  margin, gap, title = 0.15, 0.1, 0.35
  cell_width, picture_height, bars_height = 3.3, 2.3, 0.26 * bars
  cell_height = margin + bars_height + gap + picture_height + title
  width, height = margin + columns * (cell_width + margin), rows * cell_height + margin
  figure = Figure(figsize=(width, height))
  for number, result in enumerate(results):
    row, column = divmod(number, columns)
    left, bottom = margin + column * (cell_width + margin), height - (row + 1) * cell_height

    def axes(bottom: float, axes_height: float, left: float = left):
      return figure.add_axes(
        (left / width, bottom / height, cell_width / width, axes_height / height)
      )

    picture = axes(bottom + margin + bars_height + gap, picture_height)
    picture.imshow(result.image)
    picture.set_title(
      _shorten(picture_files.printable(result.path.name), 38), fontsize=10, parse_math=False
    )
    picture.set_anchor('S')  # every picture stands on its bars, whatever its shape
    picture.axis('off')
    _draw_bars(axes(bottom + margin, bars_height), result.predictions, bars)
  plot_style.save(figure, path, dpi=120)


def _import_drawing() -> tuple[Any, ModuleType]:
  try:
    from matplotlib.figure import Figure  # without pyplot: no display is looked for

    from experiments.reporting import plot_style
  except ImportError:
    needed = installation.command('train')
    raise ImportError(f'--sheet draws with matplotlib: {needed}') from None
  return Figure, plot_style


def _draw_bars(axes, predictions: list[classifiers.Prediction], slots: int) -> None:
  """Bars from the top down on a scale of 0 to 1, their labels written over them."""
  widths = [prediction.probability for prediction in predictions]
  axes.barh(range(len(widths)), [1] * len(widths), height=0.84, color='#eef1f4')
  axes.barh(range(len(widths)), widths, height=0.84, color=['#8fb8de'] + ['#c3d7ea'] * slots)
  for row, prediction in enumerate(predictions):
    label = _shorten(picture_files.printable(prediction.label), 32)
    axes.text(0.015, row, label, va='center', fontsize=9, parse_math=False)
    axes.text(0.985, row, f'{prediction.probability:.1%}', va='center', ha='right', fontsize=9)
  axes.set(xlim=(0, 1), ylim=(slots - 0.5, -0.5))
  axes.axis('off')


def _shorten(text: str, limit: int) -> str:
  return text if len(text) <= limit else f'{text[: limit - 1]}…'


if __name__ == '__main__':
  sys.exit(main())
