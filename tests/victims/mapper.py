"""A process with memory of a known make-up: anonymous pages, and pages named like a slab's.

Arguments: pages of anonymous memory, pages of a memfd ``pagemerge-slab`` mapped privately.
"""

from __future__ import annotations

import mmap
import os
import sys

from pagemerge.demo.dialog import serve

PAGE = mmap.PAGESIZE


def main() -> None:
    anonymous, slab = (int(word) for word in sys.argv[1:])
    own = mmap.mmap(-1, anonymous * PAGE, flags=mmap.MAP_PRIVATE)
    own.write(b"a" * len(own))
    descriptor = os.memfd_create("pagemerge-slab")
    os.write(descriptor, b"s" * (slab * PAGE))
    shared = mmap.mmap(descriptor, slab * PAGE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    touched = sum(shared[::PAGE])

    def spin(seconds: float) -> dict[str, float]:
        used = os.times()
        while os.times().user + os.times().system - used.user - used.system < seconds:
            pass
        return {"seconds": sum(os.times()[:2])}

    serve({"spin": spin}, touched=touched)


if __name__ == "__main__":
    main()
