"""Where a run's numbers are kept: `metrics.csv` and TensorBoard events."""

import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from absl import logging
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import record_writer

from experiments.runtime import atomic_files

CSV_NAME = 'metrics.csv'
_HEADER = 'step,name,value'


class Series(NamedTuple):
  """One metric over a run: steps [N] int64, ascending, and values [N] float64."""

  steps: np.ndarray
  values: np.ndarray


class MetricWriter:
  """Writes scalars to `<workdir>/metrics.csv` and to TensorBoard event files in workdir.

  The CSV is long (`step,name,value`), so that metrics may appear at any step. Each write is
  flushed, so that a killed run loses at most a half-written line. Use as a context manager.
  """

  def __init__(
    self, workdir: str | os.PathLike, resume_step: int | None = None, active: bool = True
  ):
    """Opens the files and creates workdir if needed.

    Args:
      workdir: the run's folder.
      resume_step: step of the checkpoint that the run goes on from: what an interrupted run wrote
        after it is dropped. None starts a new `metrics.csv`. One that is damaged is set aside as
        `damaged_metrics-<n>.csv`, with a warning.
      active: False writes nothing at all (every host but the first).
    """
    self._files = None
    if not active:
      return
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / CSV_NAME
    kept = {} if resume_step is None or not path.exists() else _rows_up_to(path, resume_step)
    rows = [_row(step, name, value) for (step, name), value in kept.items()]
    text = '\n'.join([_HEADER, *rows, ''])
    atomic_files.replace(path, lambda p: p.write_text(text, encoding='utf-8'))
    csv = path.open('a', encoding='utf-8', newline='')
    # Not tensorboard's own event-file writer: that one imports TensorFlow where it is installed.
    name = f'events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}'
    events = record_writer.RecordWriter((workdir / name).open('wb'))
    self._files = (csv, events)
    self._event(file_version='brain.Event:2')
    # A START record makes TensorBoard forget earlier files' events from this step on.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._event(step=0 if resume_step is None else resume_step + 1, session_log=start)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends one row per metric.

    Args:
      step: number of updates made so far.
      metrics: name -> number (anything that float() takes; NaN and infinities are kept). A name
        like 'train/loss' groups the curves in TensorBoard.

    Raises:
      ValueError: if a name is empty or holds a comma, a quotation mark or a line break.
    """
    if self._files is None:
      return
    values = {name: float(value) for name, value in metrics.items()}
    csv, _ = self._files
    csv.write(''.join(f'{_row(int(step), name, value)}\n' for name, value in values.items()))
    csv.flush()
    summary = [
      summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in values.items()
    ]
    self._event(step=int(step), summary=summary_pb2.Summary(value=summary))

  def close(self) -> None:
    """Closes the files; a second call does nothing."""
    for file in self._files or ():
      file.close()
    self._files = None

  def __enter__(self) -> Self:
    """Returns the writer itself."""
    return self

  def __exit__(self, *_: object) -> None:
    """Closes the files, whatever happened."""
    self.close()

  def _event(self, **fields) -> None:
    events = self._files[1]
    events.write(event_pb2.Event(wall_time=time.time(), **fields).SerializeToString())
    events.flush()


def read_csv(path: str | os.PathLike) -> dict[str, Series]:
  """Reads a `metrics.csv`; a half-written last line is ignored, of repeated rows the last counts.

  Args:
    path: the file, or the workdir that holds it.

  Returns:
    Metric name -> its series, in the order of first appearance.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if a complete line cannot be read, naming it.
  """
  path = Path(path)
  rows = _read_rows(path / CSV_NAME if path.is_dir() else path)
  points: dict[str, dict[int, float]] = {}
  for (step, name), value in rows.items():
    points.setdefault(name, {})[step] = value
  return {
    name: Series(
      np.array(sorted(series), np.int64), np.array([series[s] for s in sorted(series)], np.float64)
    )
    for name, series in points.items()
  }


def _row(step: int, name: str, value: float) -> str:
  """One line of the CSV; nine digits bring back every float32 exactly."""
  if not name or any(character in name for character in ',"\r\n'):
    raise ValueError(
      f'the metric name {name!r} cannot stand in {CSV_NAME}; use a name such as train/loss, '
      f'without commas, quotation marks or line breaks.'
    )
  return f'{step},{name},{value:.9g}'


def _rows_up_to(path: Path, last: int) -> dict[tuple[int, str], float]:
  """The rows up to a step; of a file that a run up to there cannot have left, none: it is moved."""
  try:
    rows = {key: value for key, value in _read_rows(path).items() if key[0] <= last}
    if not rows:
      raise ValueError(f'{path} has lost its rows up to step {last}.')
    half = path.read_bytes().rpartition(b'\n')[2].partition(b',')
    if half[1] and half[0].isdigit() and int(half[0]) <= last:
      raise ValueError(f'{path} was cut at step {int(half[0])}.')
  except ValueError as error:
    places = (path.with_name(f'damaged_metrics-{number}.csv') for number in itertools.count())
    aside = next(place for place in places if not place.exists())
    path.rename(aside)
    logging.warning(
      '%s It is set aside as %s. The run goes on, its curves start at step %d.', error, aside, last
    )
    return {}
  return rows


def _read_rows(path: Path) -> dict[tuple[int, str], float]:
  """(step, name) -> value of all complete lines, in the order of the file."""
  try:
    # What follows the last line break is half a line, or empty.
    lines = path.read_bytes().rpartition(b'\n')[0].decode().split('\n')
  except UnicodeDecodeError:
    raise ValueError(f'{path} is not UTF-8, so it is not a file of metrics.') from None
  if lines == ['']:
    return {}
  if lines[0] != _HEADER:
    raise ValueError(f'{path} does not start with {_HEADER!r}, so it is not a file of metrics.')
  rows = {}
  for number, line in enumerate(lines[1:], start=2):
    try:
      step, name, value = line.split(',')
      _row(int(step), name, float(value))  # raises for a name that cannot stand there
      rows[int(step), name] = float(value)
    except ValueError:
      raise ValueError(
        f'{path}, line {number}: expected {_HEADER}, got {line[:80]!r}; delete the line to go on.'
      ) from None
  return rows
