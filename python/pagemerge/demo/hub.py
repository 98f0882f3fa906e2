"""The demo's own hub: ``python -m pagemerge.demo.hub PARENT ARGUMENTS``.

The same as ``pagemerge daemon ARGUMENTS``, except that it ends when process PARENT ends.
"""

from __future__ import annotations

import sys

from pagemerge.cli import main
from pagemerge.demo.dialog import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.exit(main(["daemon", *sys.argv[2:]]))
