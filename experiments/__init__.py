"""The training system. Its commands end with one line at Ctrl-C, from their first import on."""

import sys

from nfnets import interruption

if sys.argv[:1] == ['-m']:  # Python is still looking for the command that it will run
  interruption.listen()
