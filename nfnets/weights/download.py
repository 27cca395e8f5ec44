"""Downloads files of known size and checksum into a cache: bounded, resumable, all or nothing."""

import contextlib
import errno
import functools
import hashlib
import http.client
import logging
import os
import re
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import filelock

from nfnets.weights import proxies

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 8  # connections for one file; each must bring something, or the server be in trouble
_PAUSES = (1.0, 4.0)  # seconds before asking a server in trouble again
_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 20
_LOCAL = ('localhost', '127.0.0.1', '::1')
_NAME = re.compile(r'[A-Za-z0-9_][A-Za-z0-9._+-]*')


class RemoteFile(NamedTuple):
  """A file whose size and checksum are known before it is downloaded."""

  url: str  # https; its last part is the file's name in the cache
  size: int  # bytes
  digest: str  # 'md5:<hex>' or 'sha256:<hex>'


def cache_directory() -> Path:
  """Where downloads are kept: $NFNETS_CACHE, else $XDG_CACHE_HOME/nfnets, else ~/.cache/nfnets.

  Without a home directory it is a temporary folder, and a warning says which.
  """
  if os.environ.get('NFNETS_CACHE'):
    return Path(os.environ['NFNETS_CACHE'])
  try:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'nfnets'
  except RuntimeError:  # no HOME, and a user that the machine does not know
    return _temporary_directory()


@functools.cache
def _temporary_directory() -> Path:
  """A folder that nobody else can write to, since its content may be executed."""
  directory = Path(tempfile.gettempdir()) / f'nfnets-{os.getuid()}'
  try:
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    own = own and not status.st_mode & 0o077
  except OSError:
    own = False
  if not own:
    directory = Path(tempfile.mkdtemp(prefix='nfnets-'))
  _LOG.warning(
    'there is no home directory: downloads and compiled programs are kept in %s; NFNETS_CACHE=DIR '
    'chooses another place',
    directory,
  )
  return directory


def fetch(remote: RemoteFile, cache_dir: str | os.PathLike | None = None) -> Path:
  """Returns the path of a file, downloading it if the cache does not have it.

  Processes and threads that want the same file take turns, and all but the first find it there.
  Progress goes to stderr. An interrupted download is kept as `<name>.part`, and the next one
  continues it. The file gets its name only after its size and checksum are verified. A file that is
  already there is verified too, whoever put it there, and renamed to `<name>.wrong` if it is wrong.

  Args:
    remote: the file.
    cache_dir: the folder, made if needed; None: `cache_directory()`.

  Returns:
    `<cache_dir>/<last part of the URL>`.

  Raises:
    ConnectionError: it cannot be downloaded; the message says where to put it by hand.
    OSError: the folder cannot be written.
    ValueError: the URL, or one that the server redirects to, is not https (http is allowed on
      this machine itself), or what was downloaded has another size or checksum.
  """
  _check_url(remote.url)
  name = urllib.parse.urlsplit(remote.url).path.rpartition('/')[2]
  if not _NAME.fullmatch(name):
    raise ValueError(f'{remote.url} does not end in a plain file name: give the URL of a file.')
  directory = Path(cache_dir) if cache_dir is not None else cache_directory()
  target = directory / name
  if target.is_file() and _is_right(target, remote):  # it may be where nothing can be written
    return target
  directory.mkdir(parents=True, exist_ok=True)
  with _alone(directory / f'{name}.lock'):
    if target.is_file():
      if _is_right(target, remote):  # another process was at it
        return target
      wrong = target.with_name(f'{name}.wrong')
      _LOG.warning('%s is not the file of %s: it is now %s', target, remote.url, wrong)
      os.replace(target, wrong)
    part = directory / f'{name}.part'
    _download(remote, part, target)
    if not _is_right(part, remote):
      part.unlink()
      raise ValueError(
        f'{name} from {remote.url} arrived with a wrong checksum (expected {remote.digest}) and '
        f'was removed: try again, or get the right file elsewhere and put it at {target}.'
      )
    os.replace(part, target)
  return target


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
  """A lock on this path among all processes and threads; it leaves no file."""
  lock = filelock.FileLock(path)
  try:
    lock.acquire(blocking=False)
  except filelock.Timeout:
    _LOG.warning('waiting for another process that downloads %s', path.stem)
    lock.acquire()
  try:
    yield
  finally:
    path.unlink(missing_ok=True)  # while it is held: who waits for it sees that and begins anew
    lock.release()


def _is_right(path: Path, remote: RemoteFile) -> bool:
  """Whether a file has the size and the checksum."""
  if path.stat().st_size != remote.size:
    return False
  algorithm, _, expected = remote.digest.partition(':')
  with path.open('rb') as file:
    digest = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False))
  return digest.hexdigest() == expected


def advise(status: int | None) -> str:
  """Says what to do if a server answers without a file.

  Args:
    status: the HTTP status; None: there was no answer.
  """
  if status in (401, 403, 407):
    return (
      'the server, or a proxy in front of it, denies access: log in or change the proxy, then try '
      'again'
    )
  if status in (404, 410):
    return 'the file is no longer there: update nfnets, which may know its new address'
  if status is not None and (status == 429 or status >= 500):
    return 'the server is overloaded or failing: try again later'
  return 'connect this machine and try again'


def _download(remote: RemoteFile, part: Path, target: Path) -> None:
  """Connects until `part` has all its bytes."""
  if problem := proxies.problem(remote.url):
    raise ConnectionError(
      f'cannot download {target.name} from {remote.url}: {problem}, or get the file elsewhere and '
      f'put it at {target}.'
    )
  pauses = iter(_PAUSES)
  for _ in range(_ATTEMPTS):
    start = part.stat().st_size if part.exists() else 0
    if start > remote.size:
      part.unlink()
      start = 0
    if start == remote.size:
      return
    status = pause = None
    try:
      _receive(remote, part, start)
      reason: Any = 'the connection was cut'
    except urllib.error.HTTPError as error:
      error.close()
      reason, status = error, error.code
      if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
        part.unlink()
        continue
      pause = next(pauses, None) if status == 429 or status >= 500 else None
    except (OSError, http.client.HTTPException) as error:
      if getattr(error, 'filename', None) or getattr(error, 'errno', None) == errno.ENOSPC:
        raise  # the disk, not the network
      reason = error
    if pause is not None:
      time.sleep(pause)
    elif not part.exists() or part.stat().st_size <= start:
      break
  if part.exists() and part.stat().st_size == remote.size:
    return
  raise ConnectionError(
    f'cannot download {target.name} from {remote.url} ({reason}): {advise(status)} (the '
    f'partial download is kept), or get the file elsewhere and put it at {target}.'
  )


def _receive(remote: RemoteFile, part: Path, start: int) -> None:
  """Appends what one connection delivers, up to the expected size."""
  headers = {'User-Agent': 'nfnets', 'Accept-Encoding': 'identity'}
  if start:
    headers['Range'] = f'bytes={start}-'
  request = urllib.request.Request(remote.url, headers=headers)
  opener = urllib.request.build_opener(proxies.ProxyHandler, _SafeRedirects)
  with opener.open(request, timeout=_TIMEOUT) as response:
    if start and not response.headers.get('Content-Range', '').startswith(f'bytes {start}-'):
      start = 0  # the server sends the whole file
    length = response.headers.get('Content-Length', '')
    if length.isdecimal() and int(length) != remote.size - start:
      raise ValueError(
        f'{remote.url} offers {start + int(length)} bytes instead of {remote.size}: the '
        f'file there has changed, so nothing was downloaded.'
      )
    progress = _Progress(part.stem, start, remote.size)
    with part.open('ab' if start else 'wb') as file:
      while start < remote.size:
        chunk = response.read1(min(_CHUNK, remote.size - start))
        if not chunk:
          break
        file.write(chunk)
        start += len(chunk)
        progress.show(start)
    progress.show(start, last=True)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
  """Follows redirects to https only; from this machine also to this machine."""

  def redirect_request(self, request, file, code, message, headers, new_url):
    new = urllib.parse.urlsplit(new_url)
    old = urllib.parse.urlsplit(request.full_url)
    if new.scheme != 'https' and not (new.scheme == 'http' == old.scheme):
      raise ValueError(
        f'{request.full_url} redirects to {new_url}, which is refused: only https is followed.'
      )
    _check_url(new_url)
    return super().redirect_request(request, file, code, message, headers, new_url)


def _check_url(url: str) -> None:
  """Refuses URLs that are neither https nor http on this machine."""
  parts = urllib.parse.urlsplit(url)
  if parts.scheme == 'https' and parts.hostname:
    return
  if parts.scheme != 'http' or parts.hostname not in _LOCAL:
    raise ValueError(f'{url} is refused: files are downloaded by https only.')


class _Progress:
  """One line on stderr: rewritten on a terminal, repeated from time to time in a log."""

  def __init__(self, name: str, start: int, size: int):
    self.name = name
    self.start = start
    self.size = size
    self.began = self.shown = time.monotonic()
    self.on_terminal = sys.stderr.isatty()

  def show(self, done: int, last: bool = False) -> None:
    """Reports `done` bytes, unless a report was made a moment ago."""
    now = time.monotonic()
    if not last and now - self.shown < (0.2 if self.on_terminal else 10.0):
      return
    self.shown = now
    rate = (done - self.start) / max(now - self.began, 1e-3)
    left = time.strftime('%H:%M:%S', time.gmtime((self.size - done) / max(rate, 1.0)))
    line = (
      f'{self.name}: {100 * done // self.size}% of {self.size / 1e6:.1f} MB, '
      f'{rate / 1e6:.1f} MB/s, {left} left'
    )
    end = '\n' if last or not self.on_terminal else ''
    print(f'\r{line:<79}' if self.on_terminal else line, end=end, file=sys.stderr, flush=True)
