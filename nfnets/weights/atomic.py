"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from nfnets import interruption


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
  """Yields an empty file to write; at the end it takes the name of `path`, in one move.

  Every call writes its own file, so processes and threads that write the same path do not
  interfere: the last one wins. If the block raises an error, or a signal ends the program
  (`nfnets.interruption`), the old file stays. A link is kept, and the file that it points to is
  replaced. The new file has the mode that the umask allows.

  Args:
    path: the file, in an existing folder.

  Raises:
    OSError: it cannot be written there, or path is not a file (a folder, a device).
  """
  target = Path(os.path.realpath(path))
  if target.exists() and not target.is_file():
    raise OSError(f'{path} is not a file that can be replaced: give the name of a file.')
  temporary = target.with_name(f'.nfnets-{secrets.token_hex(8)}.part')
  with interruption.undone(lambda: temporary.unlink(missing_ok=True)):
    temporary.touch(exist_ok=False)
    try:
      mode = temporary.stat().st_mode & 0o777  # some writers make it 0600
      yield temporary
      temporary.chmod(mode)
      os.replace(temporary, target)
    finally:
      temporary.unlink(missing_ok=True)
