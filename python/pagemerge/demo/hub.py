"""The demo's own hub: ``python -m pagemerge.demo.hub PARENT ARGUMENTS``.

It does the same as ``pagemerge daemon ARGUMENTS``, except that it ends when process PARENT ends.
"""

from __future__ import annotations

import runpy
import sys

from pagemerge.demo.dialog import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.argv[1:] = ["daemon", *sys.argv[2:]]
    runpy.run_module("pagemerge", run_name="__main__")
