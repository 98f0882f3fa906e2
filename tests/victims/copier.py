"""Fills memory and forks; the child rewrites half of it on request: ``copier.py MIB``."""

from __future__ import annotations

import mmap
import os
import sys

from pagemerge.demo.dialog import Answer, serve
from pagemerge.model import PAGE_SIZE


def main() -> None:
    """The parent waits; the child answers, with its pid and its parent's in the ready line."""
    size = int(sys.argv[1]) << 20
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, size, PAGE_SIZE):
        memory[page] = 1
    parent = os.getpid()
    if child := os.fork():
        os.waitpid(child, 0)
        return

    def write() -> Answer:
        for page in range(0, size // 2, PAGE_SIZE):
            memory[page] = 2
        return {}

    serve({"write": write}, parent=parent)


if __name__ == "__main__":
    main()
