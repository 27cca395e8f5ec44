"""The training system. Its commands end with one line at Ctrl-C, from their first import on."""

import sys

from experiments.runtime import interruption

# '-m': Python is still looking for the command that it will run.
if sys.argv[:1] in (['-m'], ['nfnets train'], ['nfnets evaluate']):
  interruption.listen()
