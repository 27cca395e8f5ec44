"""Which files of a folder are pictures, and how files from outside are read."""

import errno
import http.client
import os
import pathlib
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# Of the formats that `images.decode` reads; the content decides, so an ending may be wrong.
ENDINGS = (
  '.jpg', '.jpeg', '.jpe', '.jfif', '.mpo', '.png', '.apng', '.webp', '.gif', '.bmp', '.dib',
  '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm',
)  # fmt: skip


class Kind(NamedTuple):
  """What a folder is searched for.

  Attributes:
    noun: what messages call one.
    endings: of file names, in small letters, with their dots.
  """

  noun: str
  endings: tuple[str, ...]


PICTURES = Kind('picture', ENDINGS)
MAX_BYTES = 2**30  # the largest picture that is decoded, uncompressed with four times 16 bits
MAX_DOWNLOAD = 2**26  # bytes

# What systems and programs leave in every folder: not worth a word. In small letters.
_CLUTTER = frozenset(
  {'.ds_store', '.ipynb_checkpoints', '__macosx', '@eadir', 'desktop.ini', 'thumbs.db'}
)
_NAMED = 5  # of each reason in a summary
_PATIENCE = 30.0  # seconds without a byte of a download


class Skipped:
  """Counts what was left out of a folder, by reason, and keeps a few names."""

  def __init__(self, root: str | os.PathLike):
    """Takes the folder, relative to which files are named."""
    self._root = root
    self._counts: dict[str, int] = {}
    self._names: dict[str, list[str]] = {}

  def add(self, reason: str, path: str | os.PathLike) -> None:
    """Counts one file or folder; `reason` reads well after a number."""
    self._counts[reason] = self._counts.get(reason, 0) + 1
    names = self._names.setdefault(reason, [])
    if len(names) < _NAMED:
      names.append(printable(os.path.relpath(path, self._root)))

  def __len__(self) -> int:
    return sum(self._counts.values())

  def __str__(self) -> str:
    """One line, e.g. 'skipped 3: 2 of another ending (a.txt, b.json), 1 hidden (._c.jpg)'."""
    parts = []
    for reason, count in self._counts.items():
      names = self._names[reason] + ['...'] * (count > _NAMED)
      parts.append(f'{count} {reason} ({", ".join(names)})')
    return f'skipped {len(self)}: {", ".join(parts)}'


def entries(folder: str | os.PathLike, inside: pathlib.Path, skipped: Skipped) -> list[os.DirEntry]:
  """Returns the entries of a folder that count, sorted by name.

  Left out are hidden files and folders, what operating systems leave behind (.DS_Store, Thumbs.db,
  __MACOSX, ...), and links that lead out of `inside`. A folder that cannot be read is empty.

  Args:
    folder: the folder.
    inside: a folder, with all links resolved.
    skipped: takes what is left out.
  """
  try:
    with os.scandir(folder) as found:
      listed = sorted(found, key=lambda entry: entry.name)
  except OSError as error:
    skipped.add(f'that cannot be read: {error.strerror}', folder)
    return []
  kept = []
  for entry in listed:
    if entry.name.lower() in _CLUTTER:
      continue
    if entry.name.startswith('.'):
      skipped.add('hidden', entry.path)
    elif entry.is_symlink() and not _leads_inside(entry.path, inside):
      skipped.add('whose link leads out of the folder or nowhere', entry.path)
    else:
      kept.append(entry)
  return kept


def _leads_inside(link: str, inside: pathlib.Path) -> bool:
  try:
    return pathlib.Path(link).resolve(strict=True).is_relative_to(inside)
  except (OSError, RuntimeError):  # it leads nowhere, or in a circle
    return False


def walk(
  folder: str | os.PathLike, inside: pathlib.Path, skipped: Skipped, kind: Kind = PICTURES
) -> Iterator[str]:
  """Yields the paths of the pictures in a folder, at every depth, sorted.

  A picture is a regular file with one of ENDINGS, in upper or lower case; see `entries` for what is
  left out. Linked folders are not entered, so that no loop of links can trap the walk.

  Args:
    folder: the folder.
    inside: a folder, with all links resolved, that links must not lead out of.
    skipped: takes what is left out.
    kind: of files, if it is not pictures.
  """
  waiting = entries(folder, inside, skipped)[::-1]
  while waiting:
    entry = waiting.pop()
    if entry.is_dir(follow_symlinks=False):
      waiting += entries(entry.path, inside, skipped)[::-1]
    elif os.path.isdir(entry.path):
      skipped.add('linked folders', entry.path)
    elif not has_ending(entry.name, kind):
      skipped.add('of another ending', entry.path)
    elif not os.path.isfile(entry.path):
      skipped.add('that are not regular files', entry.path)
    else:
      yield entry.path


def has_ending(name: str, kind: Kind = PICTURES) -> bool:
  """Whether a file name ends as those of a kind do, in upper or lower case."""
  return name.lower().endswith(kind.endings)


def read(path: str | os.PathLike) -> bytes:
  """Returns the content of a regular file.

  Raises:
    OSError: it cannot be read, is a folder, pipe or device (none of which is waited for), or has
      more than MAX_BYTES bytes; `strerror` says so.
  """
  with open(path, 'rb', opener=_open_without_waiting) as file:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
      raise OSError(errno.EINVAL, 'it is a pipe, a socket or a device, not a file', str(path))
    if status.st_size > MAX_BYTES:
      raise OSError(
        errno.EFBIG, f'it has {status.st_size:,} bytes, more than {MAX_BYTES:,}', str(path)
      )
    return file.read()


def read_open(file: BinaryIO) -> bytes:
  """Returns what is left to read of an open file.

  Raises:
    OSError: it has more than MAX_BYTES bytes.
    ValueError: it is not open for reading bytes.
  """
  data = file.read(MAX_BYTES + 1)
  if not isinstance(data, bytes):
    raise ValueError("the file is open as text: open it with open(path, 'rb')")
  if len(data) > MAX_BYTES:
    raise OSError(errno.EFBIG, f'it has more than {MAX_BYTES:,} bytes')
  return data


def download(address: str) -> bytes:
  """Returns the file at a URL, http:// or https://, of at most MAX_DOWNLOAD bytes.

  Raises:
    OSError: it cannot be downloaded, or is larger; the message says so.
  """
  request = urllib.request.Request(address, headers={'User-Agent': 'nfnets'})
  try:
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
      data = answer.read(MAX_DOWNLOAD + 1)
  except urllib.error.HTTPError as error:
    raise OSError(f'{address} cannot be downloaded: the server answered {error.code}.') from None
  except (http.client.HTTPException, OSError, ValueError) as error:
    reason = getattr(error, 'reason', None) or error
    raise OSError(f'{address} cannot be downloaded: {reason}.') from None
  if len(data) > MAX_DOWNLOAD:
    raise OSError(
      f'{address} has more than {MAX_DOWNLOAD:,} bytes: download it, and give the file.'
    )
  return data


def _open_without_waiting(path: str, flags: int) -> int:
  return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))  # a pipe would wait for its writer


def printable(name: str) -> str:
  r"""Returns a file name as text for a terminal: other bytes and control characters as \x..."""
  text = os.fsencode(name).decode('utf-8', 'backslashreplace')
  return ''.join(
    letter if letter.isprintable() else letter.encode('unicode_escape').decode() for letter in text
  )
