"""The program that the kernel starts for a file: execve(2), elf(5), and env(1) after a ``#!``.

Any contents of such a file are possible: offsets and sizes are checked, paths are bytes.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pagemerge.linux.text import decoded

_MOST_INTERPRETERS = 5
"""Longest chain of scripts whose interpreter is again a script (Linux fs/exec.c)."""
_FIRST_LINE = 256
"""Bytes of a script that the kernel looks at (BINPRM_BUF_SIZE)."""
_MOST_HEADERS, _MOST_PATH = 1 << 16, 4096
"""Bytes; the kernel refuses longer program headers and paths (Linux fs/binfmt_elf.c)."""
_PT_INTERP = 3


@dataclass(frozen=True, slots=True)
class Elf:
    """Properties of an ELF file, from its headers."""

    bits: int
    """64 or 32."""
    machine: int
    """EM_* (elf(5))."""
    loader: str
    """Path of its dynamic linker (PT_INTERP); empty if it is linked statically."""


def interpreters(program: Path) -> list[Path]:
    """List ``program``, and after it each interpreter that its ``#!`` leads to.

    For env(1) the list has the program that env runs. The process runs the last one of the list. A
    file that cannot be read or found ends the list.
    """
    found = [program]
    while len(found) <= _MOST_INTERPRETERS and (following := _interpreter(found[-1])):
        found.append(following)
    return found


def elf(path: Path) -> Elf | None:
    """Read the ELF file ``path``; None if it is not ELF, is broken, or cannot be read."""
    try:
        with path.open("rb") as file:
            return _elf(file)
    except (OSError, ValueError, OverflowError, struct.error):
        return None


def is_glibc(loader: Path) -> bool | None:
    """Is this dynamic linker that of the GNU C library? None if it cannot be read.

    File names differ between distributions; all of them have the symbol version GLIBC_PRIVATE.
    """
    try:
        with loader.open("rb") as file:
            return b"GLIBC_PRIVATE\0" in file.read(1 << 24)
    except (OSError, ValueError):
        return None


def gains_rights(path: Path) -> str:
    """Say what gives the program ``path`` rights that this process lacks; empty if nothing does.

    Into a program with such rights ld.so(8) preloads nothing, and the kernel lets no other process
    of its user look at it. Source: credentials(7), capabilities(7), and
    ``cap_bprm_creds_from_file`` in Linux.
    """
    try:
        about, mount = path.stat(), os.statvfs(path)
    except OSError:
        return ""
    if mount.f_flag & os.ST_NOSUID:
        return ""
    if about.st_mode & 0o4000 and about.st_uid != os.geteuid():
        return "changes its user (set-user-ID)"
    # A set-group-ID bit without the group's execute bit does not change the group: it stands for
    # mandatory locking.
    if about.st_mode & 0o2010 == 0o2010 and about.st_gid != os.getegid():
        return "changes its group (set-group-ID)"
    if os.getuid() != 0 and _has_capabilities(path):
        return "has file capabilities"
    return ""


def _interpreter(path: Path) -> Path | None:
    """Find the interpreter of a script; None if the file is not a script."""
    try:
        with path.open("rb") as file:
            line = file.read(_FIRST_LINE).partition(b"\n")[0]
    except (OSError, ValueError):
        return None
    if not line.startswith(b"#!") or not (words := line[2:].split()):
        return None
    named = Path(decoded(words[0]))
    return (_behind_env(words[1:]) if named.name == "env" else None) or named


def _behind_env(words: list[bytes]) -> Path | None:
    """Find the program that env(1) runs: the first word that is not an option or a variable."""
    for word in words:
        if not word.startswith(b"-") and b"=" not in word:
            found = shutil.which(decoded(word))
            return Path(found) if found else None
    return None


def _elf(file: BinaryIO) -> Elf | None:
    head = file.read(64)
    if len(head) < 52 or head[:4] != b"\x7fELF" or head[4:5] not in (b"\1", b"\2"):
        return None
    wide, order = head[4] == 2, ">" if head[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    (table,) = struct.unpack_from(*((f"{order}Q", head, 32) if wide else (f"{order}I", head, 28)))
    size, count = struct.unpack_from(f"{order}HH", head, 54 if wide else 42)
    if size * count > _MOST_HEADERS:
        return None
    file.seek(table)
    headers = file.read(size * count)
    loader = next(_loaders(file, headers, size, wide, order), "")
    return Elf(64 if wide else 32, machine, loader)


def _loaders(file: BinaryIO, headers: bytes, size: int, wide: bool, order: str) -> Iterator[str]:
    """Yield the path in each header of the kind PT_INTERP."""
    for at in range(0, len(headers), size or 1):
        if struct.unpack_from(f"{order}I", headers, at)[0] == _PT_INTERP:
            where, length = (8, 32) if wide else (4, 16)
            word = f"{order}Q" if wide else f"{order}I"
            file.seek(struct.unpack_from(word, headers, at + where)[0])
            most = min(struct.unpack_from(word, headers, at + length)[0], _MOST_PATH)
            yield decoded(file.read(most).partition(b"\0")[0])


def _has_capabilities(path: Path) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:  # it has none, or the file system does not support them
        return False
