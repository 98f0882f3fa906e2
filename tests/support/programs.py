"""Programs made byte by byte, without a compiler; not all of them could run here."""

from __future__ import annotations

import struct
from pathlib import Path

MUSL = "/lib/ld-musl-x86_64.so.1"
I386, X86_64, AARCH64 = 3, 62, 183


def made(path: Path, text: bytes | str, mode: int = 0o755) -> Path:
    """An executable file with these contents."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def elf(loader: str = "", *, bits: int = 64, machine: int = X86_64, big: bool = False) -> bytes:
    """The headers of an ELF file (elf(5)), and of the loader that it asks for, if any."""
    order, wide = ">" if big else "<", bits == 64
    word, head, row = ("Q", 64, 56) if wide else ("I", 52, 32)
    count = 2 if loader else 1
    ident = b"\x7fELF" + bytes([2 if wide else 1, 2 if big else 1, 1]) + bytes(9)
    path = loader.encode() + b"\0"
    rows = [(1, 0, 0)] + ([(3, head + row * count, len(path))] if loader else [])
    out = ident + struct.pack(f"{order}HHI3{word}", 3, machine, 1, 0, head, 0)
    out += struct.pack(f"{order}I6H", 0, head, row, count, 0, 0, 0)
    for kind, at, size in rows:
        if wide:
            out += struct.pack(f"{order}II6Q", kind, 4, at, 0, 0, size, size, 1)
        else:
            out += struct.pack(f"{order}8I", kind, at, 0, 0, size, size, 4, 1)
    return out + path
