"""Runs the ``pagemerge`` command for ``python -m pagemerge``."""

import sys

from pagemerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
