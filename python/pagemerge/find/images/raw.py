"""Raw memory: byte n of the file is byte n of the memory.

Firecracker and Cloud Hypervisor write their snapshots like this, QEMU the file of a
memory-backend-file and ``pmemsave``, VMware a .vmem file.
"""

from __future__ import annotations

import numpy as np

from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.layout import segments
from pagemerge.find.images.source import Contents
from pagemerge.model import PAGE_SIZE


def parse(file: ImageFile) -> Contents:
    """Lay out a file as raw memory: every file can be."""
    zero = np.zeros(1, np.int64)
    beyond = file.size % PAGE_SIZE
    notes: tuple[str, ...] = ()
    if beyond:
        notes = (
            f"its size is no multiple of {PAGE_SIZE} bytes: the last page has only {beyond} bytes, "
            "and counts as if zeros followed; is it raw memory?",
        )
    return Contents("raw memory", segments(zero, zero, zero + file.size), notes)
