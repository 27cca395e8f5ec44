"""Many named pictures from folders, patterns, videos, lists and generators, one after the other."""

import glob
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import cv2

from nfnets import inference, picture_files

VIDEO_ENDINGS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm')

_LOG = logging.getLogger(__name__)


def find(argument: str | os.PathLike, skipped: list[str] | None = None) -> list[pathlib.Path]:
  """Returns the files that a path or a pattern matches, each once, sorted within a folder.

  Args:
    argument: a file; a folder, searched at every depth, see `picture_files.walk`; or a pattern such
      as 'photos/*.jpg'.
    skipped: receives a line for each folder in which something is skipped; None: it is logged.

  Raises:
    FileNotFoundError: it matches no file.
  """
  path = pathlib.Path(argument)
  matches = [path]
  if not os.path.exists(path):
    matches = sorted(map(pathlib.Path, glob.glob(os.fspath(argument), recursive=True)))
  if not matches:
    raise FileNotFoundError('there is no such file or folder, and no file matches it as a pattern')
  found: dict[pathlib.Path, None] = {}
  for match in matches:
    files = [match]
    if os.path.isdir(match):
      left_out = picture_files.Skipped(match)
      files = [*map(pathlib.Path, picture_files.walk(match, match.resolve(), left_out))]
      if left_out:
        line = f'{picture_files.printable(str(match))}: {left_out}'
        _LOG.warning('%s', line) if skipped is None else skipped.append(line)
    found.update(dict.fromkeys(files))
  if not found:
    endings = ', '.join(picture_files.ENDINGS)
    raise FileNotFoundError(f'no file in this folder ends in {endings}')
  return list(found)


def is_several(argument: Any) -> bool:
  """Whether this is a path to several pictures: a folder, a pattern or a video."""
  if not isinstance(argument, str | os.PathLike) or inference.is_address(argument):
    return False
  if os.path.exists(argument):
    return os.path.isdir(argument) or is_video(argument)
  return glob.has_magic(os.fspath(argument))


def is_video(path: str | os.PathLike) -> bool:
  """Whether a file has the name of a video."""
  return os.fspath(path).lower().endswith(VIDEO_ENDINGS)


def named(
  source: inference.Picture | Iterable[inference.Picture],
) -> Iterator[tuple[str, inference.Picture]]:
  """Yields pictures with their names: paths, 'film.mp4, frame 0', or 'picture 0'.

  Args:
    source: a picture, a folder, a pattern, a video, an address, or pictures: a list, a generator,
      an array [N, H, W, C].

  Raises:
    OSError: there is no such file, or a video cannot be read.
  """
  if isinstance(source, str | os.PathLike) and not inference.is_address(source):
    try:
      paths = find(source)
    except FileNotFoundError as error:
      raise FileNotFoundError(f'{os.fspath(source)}: {error}.') from None
    for path in paths:
      if is_video(path):
        yield from _frames(path)
      else:
        yield str(path), path
    return
  for number, picture in enumerate(pictures_of(source)):
    is_name = isinstance(picture, str | os.PathLike)
    yield os.fspath(picture) if is_name else f'picture {number}', picture


def pictures_of(source: Any) -> Iterable[inference.Picture]:
  """Returns what can be iterated over: the pictures themselves, or one in a list."""
  return source if is_iterable(source) else [source]


def is_iterable(source: Any) -> bool:
  """Whether these are several pictures: a list, an iterator or an array [N, H, W, C]."""
  if hasattr(source, 'ndim'):  # an array of any library
    return source.ndim == 4
  one = str | os.PathLike | bytes | bytearray | memoryview
  return not isinstance(source, one) and not hasattr(source, 'read') and _can_iterate(source)


def _can_iterate(source: Any) -> bool:
  return hasattr(source, '__iter__') or hasattr(source, '__getitem__')


def _frames(path: pathlib.Path) -> Iterator[tuple[str, inference.Picture]]:
  """Every frame of a video."""
  capture = cv2.VideoCapture(str(path))
  number = 0
  try:
    while True:
      good, frame = capture.read()
      if not good:
        break
      yield f'{path}, frame {number}', cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
      number += 1
  finally:
    capture.release()
  if not number:
    raise OSError(f'{path} cannot be read as a video: it is damaged, or of an unknown kind.')
