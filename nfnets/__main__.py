"""The command `nfnets` as python -m nfnets."""

import sys

from nfnets.cli import main

if __name__ == '__main__':
  sys.exit(main())
