"""Paths that must lie on this machine or on what is mounted there."""

import pathlib
import re

from experiments.runtime.errors import ConfigError


def require(path: str, what: str) -> pathlib.Path:
  """Returns the path.

  Args:
    path: as a user gave it.
    what: the flag or field that it came from.

  Raises:
    ConfigError: it is a remote address such as gs://bucket/run, which would name a local folder.
  """
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]+:/', path):
    raise ConfigError(
      f'{what}={path} is a remote address, and only local paths can be used: mount the storage '
      '(gcsfuse, s3fs, NFS, ...) and give the path where it is mounted, or copy the files.'
    )
  return pathlib.Path(path)
