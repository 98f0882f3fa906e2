"""How many pages of an image can be compared on this host: a file may claim any number."""

from __future__ import annotations

from pagemerge.errors import UsageError
from pagemerge.find.images.file import ImageFile
from pagemerge.linux.accounts import available_bytes
from pagemerge.model import PAGE_SIZE

BYTES_A_PAGE = 24
"""What the comparison of a page takes: its digest, its frame, and room to sort it."""
UNKNOWN_HOST = 4 << 30
"""Bytes that we count on if the kernel does not tell how much memory is available."""


def check(file: ImageFile, pages: float) -> None:
    """Raise ``UsageError`` if ``pages`` pages are too many to be compared on this host."""
    available = available_bytes() or UNKNOWN_HOST
    if pages * BYTES_A_PAGE <= available:
        return
    raise UsageError(
        f"{file.label} claims to hold {_size(pages * PAGE_SIZE)} of memory: to compare that takes "
        f"{_size(pages * BYTES_A_PAGE)}, and this host has {_size(available)} available: use a "
        "host with more memory, or check whether the file is damaged",
        path=str(file.path),
    )


def _size(amount: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:,.4g} PiB" if amount < 1024 else f"{amount / 1024:,.4g} EiB"
