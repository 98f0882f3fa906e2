"""``python -m pagemerge``: the same as the ``pagemerge`` command."""

import sys

from pagemerge.cli import main

if __name__ == "__main__":
    sys.exit(main())
