"""How many files this process may have open: a TFDS data set keeps a thousand open."""

import contextlib
import resource


def raise_limit() -> None:
  """Raises the soft limit to the hard one, for this process and those that it starts."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft != hard:
    with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
      resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
