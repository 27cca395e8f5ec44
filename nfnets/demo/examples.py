"""Pictures that the page offers as examples."""

import io
import os
import pathlib
from typing import NamedTuple

from PIL import Image

from nfnets import inference, picture_files

LIMIT = 24  # pictures
_THUMBNAIL = 240  # pixels, the longer side


class Example(NamedTuple):
  """A picture of a folder."""

  path: pathlib.Path
  name: str  # for people
  thumbnail: bytes  # a JPEG


def find(folder: pathlib.Path, max_bytes: int) -> tuple[list[Example], list[str]]:
  """Returns the first LIMIT pictures of a folder, sorted by path, and a line for each one skipped.

  Args:
    folder: searched at every depth, by the rules of `picture_files.walk`.
    max_bytes: largest file size; larger files are skipped.
  """
  examples, notes = [], []
  skipped = picture_files.Skipped(folder)
  for path in map(pathlib.Path, picture_files.walk(folder, folder.resolve(), skipped)):
    if len(examples) == LIMIT:
      notes.append(f'{folder} has more pictures: the first {LIMIT} are offered')
      break
    name = picture_files.printable(path.stem)
    try:
      if (size := path.stat().st_size) > max_bytes:
        raise ValueError(f'it has {size:,} bytes, more than {max_bytes:,}')
      examples.append(Example(path, name, _thumbnail(path)))
    except (OSError, ValueError) as error:
      reason = error.strerror if isinstance(error, OSError) and error.strerror else error
      notes.append(f'{picture_files.printable(os.fspath(path))}: {reason}')
  if skipped:
    notes.append(f'{folder}: {skipped}')
  return examples, notes


def _thumbnail(path: pathlib.Path) -> bytes:
  image = Image.fromarray(inference.read_picture(path))
  image.thumbnail((_THUMBNAIL, _THUMBNAIL))
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=85)
  return file.getvalue()
