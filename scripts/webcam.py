#!/usr/bin/env python3
"""Labels what a camera or a video shows, frame by frame.

    nfnets webcam                                   a window with camera 0; q or Esc ends
    nfnets webcam --source film.mp4 --out labelled.mp4

With --out nothing is shown, so no display is needed; Ctrl-C completes the file and ends. Of a
camera the frames that the network has no time for are dropped; of a file every one is labelled.
Exit code 0: done; 1: it cannot be carried out; 2: wrong arguments; 130: ended with Ctrl-C.
"""

from nfnets import interruption

if __name__ == '__main__':
  interruption.listen()  # before the imports that take time

import argparse
import contextlib
import math
import os
import pathlib
import queue
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

import nfnets
from experiments.runtime import compilation_cache, output_files, platforms
from experiments.runtime.errors import ConfigError
from nfnets import classifier as classifiers
from nfnets.deploy import runtimes

_CODECS = {'.avi': 'MJPG', '.mkv': 'mp4v', '.mp4': 'mp4v'}
_USUAL_FPS = 30.0  # where a source does not tell
_SMOOTHING = 0.9  # of the frame rate that is drawn
_POLL_SECONDS = 0.1
_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports of a program that the signal ended


class FrameReader:
  """Reads frames in a thread while the network works on the one before.

  Iterating gives BGR frames uint8 [H, W, 3]: of a live source the newest, else every one in order.
  """

  def __init__(self, capture: cv2.VideoCapture, live: bool):
    """Starts to read `capture`, which `close` releases."""
    self._capture = capture
    self._live = live
    self._slot: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=1)  # None: the end
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._read, daemon=True)
    self._thread.start()

  def __iter__(self) -> Iterator[np.ndarray]:
    """Yields frames until the source ends or Ctrl-C is pressed."""
    while not interruption.asked():
      with contextlib.suppress(queue.Empty):
        if (frame := self._slot.get(timeout=_POLL_SECONDS)) is None:
          return
        yield frame

  def close(self) -> None:
    """Stops reading and releases the source."""
    self._closed.set()
    self._thread.join()
    self._capture.release()

  def _read(self) -> None:
    frame = True
    while frame is not None and not self._closed.is_set():
      good, frame = self._capture.read()
      frame = frame if good else None
      if self._live:  # the frame that nobody took is old now
        with contextlib.suppress(queue.Empty):
          self._slot.get_nowait()
      self._put(frame)

  def _put(self, frame: np.ndarray | None) -> None:
    """Waits until there is room for a frame, or the reader is closed."""
    while not self._closed.is_set():
      with contextlib.suppress(queue.Full):
        self._slot.put(frame, timeout=_POLL_SECONDS)
        return


class VideoFile:
  """Writes frames to a file, made when the first one comes."""

  def __init__(self, path: pathlib.Path, fps: float, live: bool):
    """Writes `fps` frames per second; of a live source, in the time in which they come."""
    self._path = path
    self._fps = fps
    self._live = live
    self._start = time.monotonic()
    self._writer: cv2.VideoWriter | None = None
    self.count = 0  # frames written

  def write(self, frame: np.ndarray) -> None:
    """Adds a BGR frame, uint8 [H, W, 3], as often as a live film's clock needs.

    Raises:
      OSError: the file cannot be written.
    """
    if self._writer is None:
      codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
      size = (frame.shape[1], frame.shape[0])
      self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, size)
      if not self._writer.isOpened():
        raise OSError(f'{self._path} cannot be written as a video: choose another --out.')
    due = self.count + 1
    if self._live:
      due = max(1, round((time.monotonic() - self._start) * self._fps))
    while self.count < due:
      self._writer.write(frame)
      self.count += 1

  def close(self) -> None:
    """Completes the file."""
    if self._writer is not None:
      self._writer.release()


def main(argv: list[str] | None = None) -> int:
  """Labels the source that the arguments name; returns the exit code."""
  args = _parse(argv)
  # One sentence of ours instead of what OpenCV and FFmpeg say.
  cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
  os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
  live = not pathlib.Path(args.source).is_file()
  try:
    if args.out is None:
      _check_windows()
    capture = open_source(args.source)
    compilation_cache.enable()
    with platforms.explained():
      runtimes.choose(args.runtime, args.dtype)  # what is missing is said before weights are loaded
      classifier = nfnets.Classifier.from_pretrained(
        args.weights, size=args.size, dtype=args.dtype, runtime=args.runtime
      )
      classifier(np.zeros((8, 8, 3), np.uint8))  # compiles before the first frame comes
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if math.isfinite(fps) and 0 < fps <= 1000 else _USUAL_FPS
    sink = VideoFile(args.out, fps, live) if args.out else None
    with interruption.graceful():
      count, seconds = label_frames(capture, live, classifier, sink, args.top, args.frames)
    if not count and interruption.asked():
      print('Error: interrupted.', file=sys.stderr)
      return _INTERRUPTED
    if not count:
      raise ValueError(f'no frame of {args.source} can be read: it is damaged or no video.')
  except (ImportError, OSError, ValueError) as error:
    print(f'Error: {" ".join(str(error).split())}', file=sys.stderr)
    return 1
  wrote = f', {sink.count} written to {args.out}' if sink else ''
  print(f'{count} frames labelled in {seconds:.1f} s ({count / seconds:.1f} per second){wrote}.')
  return _INTERRUPTED if interruption.asked() else 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
  description, _, details = __doc__.partition('\n')
  parser = argparse.ArgumentParser(
    description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--source', default='0', help="a camera's number, a video file or a stream's address")
  add('--weights', default='F0', help="a published name, a file or a run's folder (default: F0)")
  add('--out', type=pathlib.Path, metavar='VIDEO', help='write here instead of to a window')
  add('--frames', type=_positive, help='stop after so many labelled frames')
  add('--top', type=_positive, default=3, help='classes to name (default: 3)')
  add('--size', type=_positive, help="pixels that frames are brought to (default: the weights')")
  add('--dtype', choices=classifiers.DTYPES, default='float32', help='what the network computes in')
  add('--runtime', choices=runtimes.RUNTIMES, help='what computes (default: the quicker one here)')
  args = parser.parse_args(argv)
  if args.out:
    inputs = [args.source, args.weights]
    try:
      output_files.require(args.out, '--out', suffixes=tuple(_CODECS), inputs=inputs)
    except ConfigError as error:
      parser.error(str(error))
  return args


def _positive(text: str) -> int:
  if (number := int(text)) < 1:
    raise argparse.ArgumentTypeError(f'must be at least 1, got {number}')
  return number


def _check_windows() -> None:
  """Raises ImportError or OSError if no window can be opened."""
  if re.search(r'GUI:\s+NONE', cv2.getBuildInformation()):
    raise ImportError(
      'this OpenCV cannot open windows: label a camera in the browser with nfnets demo, or write '
      'to a file with --out labelled.mp4.'
    )
  displays = ('DISPLAY', 'WAYLAND_DISPLAY')
  if sys.platform.startswith('linux') and not any(map(os.environ.get, displays)):
    raise OSError('there is no display: write to a file with --out labelled.mp4.')


def open_source(source: str) -> cv2.VideoCapture:
  """Opens a camera, a file or a stream.

  Raises:
    OSError: there is no such camera or file, or it cannot be read as a video.
  """
  is_camera = source.isdecimal()
  if not is_camera and '://' not in source and not pathlib.Path(source).is_file():
    raise OSError(f'there is no video file {source!r}: give a file, or the number of a camera.')
  capture = cv2.VideoCapture(int(source) if is_camera else source)
  if not capture.isOpened():
    what = (
      f'camera {source} cannot be opened: connect one'
      if is_camera
      else (f'{source} cannot be read as a video: choose another file')
    )
    raise OSError(f'{what}, or give --source.')
  return capture


def label_frames(
  capture: cv2.VideoCapture,
  live: bool,
  classifier: nfnets.Classifier,
  sink: VideoFile | None,
  top: int = 3,
  limit: int | None = None,
) -> tuple[int, float]:
  """Labels frames until the source, the limit or the user ends it.

  Args:
    capture: anything with `read` and `release` of cv2.VideoCapture; it is released.
    live: whether frames may be dropped.
    classifier: what labels them.
    sink: where the labelled frames go; None: a window.
    top: classes to name.
    limit: number of frames after which to stop.

  Returns:
    Number of labelled frames, and the seconds that they took.
  """
  count, fps, start = 0, 0.0, time.monotonic()
  last = start
  reader = FrameReader(capture, live)
  try:
    for frame in reader:
      predictions = classifier(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), top)
      now = time.monotonic()
      rate = 1 / max(now - last, 1e-6)
      fps, last = _SMOOTHING * fps + (1 - _SMOOTHING) * rate if count else rate, now
      draw(frame, predictions, fps)
      count += 1
      if sink is not None:
        sink.write(frame)
      else:
        cv2.imshow('nfnets', frame)
        if cv2.waitKey(1) in (ord('q'), 27):
          break
      if count == limit or interruption.asked():
        break
  finally:
    reader.close()
    if sink is not None:
      sink.close()
  return count, time.monotonic() - start


def draw(frame: np.ndarray, predictions: Sequence[classifiers.Prediction], fps: float) -> None:
  """Writes labels and frame rate into the upper left corner of a BGR frame, uint8 [H, W, 3]."""
  lines = [f'{p.label}  {p.probability:.0%}' for p in predictions] + [f'{fps:.1f} FPS']
  font, thickness = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(frame.shape[0] / 480))
  scale = max(0.45, frame.shape[0] / 640)
  widths = [cv2.getTextSize(line, font, scale, thickness)[0][0] for line in lines]
  step = round(34 * scale)
  height, width = step * len(lines) + step // 2, max(widths) + step
  panel = frame[:height, :width]
  panel[:] = panel // 3  # darker, so that white is readable on anything
  for row, line in enumerate(lines, start=1):
    color = (120, 230, 255) if row == 1 else (235, 235, 235)
    place = (step // 2, row * step)
    cv2.putText(frame, line, place, font, scale, color, thickness, cv2.LINE_AA)


if __name__ == '__main__':
  sys.exit(main())
