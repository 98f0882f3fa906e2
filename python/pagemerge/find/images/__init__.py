"""Memory images as sources of pages: raw memory, ELF cores, LiME dumps, QEMU's streams.

``open_image`` recognises a format by the contents of the file. Each parser (``raw``, ``elf``,
``lime``, ``qemu``) only finds out where the pages lie (``layout``); ``source`` reads them. All
contents are hostile: a parser raises nothing but errors of ``pagemerge.errors``, and takes memory
in proportion to the file, or to the pages that it claims if this host can compare that many.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

from pagemerge.find.images import elf, lime, qemu, raw
from pagemerge.find.images.file import ImageFile
from pagemerge.find.images.source import Contents, ImageSource
from pagemerge.linux.domain import Domain

PARSERS: tuple[tuple[bytes, Callable[[ImageFile], Contents]], ...] = (
    (elf.MAGIC, elf.parse),
    (lime.MAGIC, lime.parse),
    (qemu.MAGIC, qemu.parse),
    (qemu.LIBVIRT, qemu.parse_save),
)
"""First bytes of a file, and what reads it."""
HEAD_BYTES = 16


def images_of_caller() -> Domain:
    """Return the trust domain that all images of the caller share, unless it chooses another."""
    return Domain(os.geteuid(), name="memory images")


def open_image(path: Path, domain: Hashable = None) -> ImageSource:
    """Open a memory image.

    ``domain``: its trust domain; None for ``images_of_caller``.
    Raises ``UsageError`` that names the cause and the cure for what is no memory image, damaged, or
    claims more memory than this host can compare; ``AccessDenied``, ``OutOfMemory``,
    ``PagemergeError``. What is only cut short gives a source whose ``note`` says so.
    """
    file = ImageFile(path)
    head = file.read(0, HEAD_BYTES)
    raw.refuse(file, head)
    parse = next((parser for magic, parser in PARSERS if head.startswith(magic)), raw.parse)
    found = parse(file)
    file.check_claim(found.layout.total)
    if not found.layout.total:
        cause = "; ".join(found.notes) or "its format has room for none"
        raise file.usage(f"holds no whole page of memory ({cause}): make the dump anew")
    return ImageSource(file, found, images_of_caller() if domain is None else domain)


__all__ = ["ImageSource", "images_of_caller", "open_image"]
