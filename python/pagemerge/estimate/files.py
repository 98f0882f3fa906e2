"""Finds the files that the processes of a look have open or mapped, and the digests of those of
their pages that lie in the page cache.

Nothing is read from a disk (``preadv2(2)``, RWF_NOWAIT), and nothing that can block is touched: a
file counts only if its process's mounts say that it lies in a file system of the kernel's own. A
file of FUSE or NFS could make the reader wait for ever, even in stat(2).
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.linux.aside import readers
from pagemerge.linux.domain import namespaces
from pagemerge.linux.maps import mappings
from pagemerge.linux.process import PROC, read
from pagemerge.linux.text import lines, open_quietly
from pagemerge.model import PAGE_SIZE

LOCAL = frozenset(
    b"ext2 ext3 ext4 xfs btrfs f2fs tmpfs ramfs rootfs overlay squashfs erofs zfs bcachefs".split()
)
"""File systems that answer by themselves."""

MOST_BYTES = 16 << 30
"""Bytes in the cache that are looked at, all files together."""
MOST_FILES = 4096
_CHUNK = 4 << 20
_MOST_DESCRIPTORS = 1024
"""Descriptors of one process that are looked at."""
MOST_CHUNKS = 1 << 16
"""Parts of 4 MiB of one file that are looked for in the cache."""
_PT_NOTE, _NT_GNU_BUILD_ID = 4, 3
_CACHESTAT = 451
"""The number of the system call, on all processors."""
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, eq=False)
class CachedFile:
    """A file, and its pages in the page cache."""

    path: str
    """As the process that uses it sees it; print it through ``text.plain`` only."""
    build_id: str
    """Of an ELF file, in hexadecimal; empty for others."""
    pages: NDArray[np.int64]
    """int64[n]: numbers of its pages that are in the cache, ascending."""
    digests: NDArray[np.uint64]
    """u64[n]: their digests."""


def cached(pids: Iterable[int], seed: int, proc: Path = PROC) -> Iterator[CachedFile]:
    """Yield the files of processes, each once, with digests of ``seed``.

    Opening a file by way of its process can block: a reader does it (``linux.aside``).
    """
    known: set[tuple[int, int]] = set()
    left = MOST_BYTES
    for pid in pids:
        if len(known) >= MOST_FILES or left <= 0:
            return
        with suppress(PagemergeError):
            found, known = readers.call(pid, _of_process, pid, seed, known, left, proc)
            left -= sum(len(file.pages) * PAGE_SIZE for file in found)
            yield from found


def _of_process(
    pid: int, seed: int, known: set[tuple[int, int]], left: int, proc: Path
) -> tuple[list[CachedFile], set[tuple[int, int]]]:
    """Find the files of a process that are not ``known`` (device and inode); returns these and all
    known ones."""
    found: list[CachedFile] = []
    local = _local_mounts(pid, proc)
    for link, path in _files(pid, proc):
        if len(known) >= MOST_FILES or left <= 0:
            break
        with suppress(OSError, PagemergeError), _opened(link, local) as (file, about):
            key = about.st_dev, about.st_ino
            if key not in known and about.st_size:
                known.add(key)
                pages, digests = _digests(file, about.st_size, seed, left)
                left -= len(pages) * PAGE_SIZE
                found.append(CachedFile(path, _build_id(file), pages, digests))
    return found, known


def _files(pid: int, proc: Path) -> Iterator[tuple[Path, str]]:
    """Yield the link to each file of a process in /proc, and the path that it leads to."""
    with suppress(OSError, PagemergeError):
        seen = set()
        for mapping in mappings(pid, proc):
            if mapping.inode and mapping.path[:1] == "/" and not mapping.slab:
                if mapping.path not in seen:
                    name = f"{mapping.start:x}-{mapping.end:x}"
                    yield proc / str(pid) / "map_files" / name, mapping.path
                seen.add(mapping.path)
        folder = proc / str(pid) / "fd"
        for number in sorted(os.listdir(folder))[:_MOST_DESCRIPTORS]:  # noqa: PTH208 - names only
            with suppress(OSError):
                path = os.readlink(folder / number)  # noqa: PTH115 - bytes of any kind
                if path[:1] == "/":
                    yield folder / number, path


def _local_mounts(pid: int, proc: Path) -> set[bytes]:
    """Return the numbers of the mounts of local file systems that a process sees."""
    found = set()
    with suppress(PagemergeError):
        # In a user namespace of its own, any user may mount an overlay over FUSE.
        own = namespaces(pid, proc)[0] == namespaces("self", proc)[0] != 0
        for line in lines(read(pid, "mountinfo", proc)):
            mount, _, kind = line.partition(b" - ")
            kind = kind.partition(b" ")[0]
            if kind in LOCAL and (own or kind != b"overlay"):
                found.add(mount.partition(b" ")[0])
    return found


@contextmanager
def _opened(link: Path, local: set[bytes]) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file of a local file system for reading. Raises ``OSError`` for others.

    The process may put another file in its place at any moment. So the file is opened without
    asking its file system (O_PATH), looked at, and only then opened for reading.
    """
    handle = os.open(link, os.O_PATH | os.O_CLOEXEC)
    try:
        if _mount_of(handle) not in local:
            raise FileNotFoundError
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise FileNotFoundError
        file = open_quietly(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            yield file, about
        finally:
            os.close(file)
    finally:
        os.close(handle)


def _mount_of(handle: int) -> bytes:
    """Return the number of the mount on which an open file lies: fdinfo asks no file system."""
    for line in lines(read("self", f"fdinfo/{handle}")):
        name, _, value = line.partition(b":")
        if name == b"mnt_id":
            return value.strip()
    return b""


def _digests(
    file: int, size: int, seed: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return numbers and digests of a file's pages that are in the cache: int64[n], u64[n].

    About ``most`` bytes at most. Holes, and parts of which nothing is in the cache, are skipped.
    """
    room, at, read = bytearray(_CHUNK), 0, 0
    pages, digests = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for _ in range(MOST_CHUNKS):
        try:
            at = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # there is no more data
            break
        at -= at % _CHUNK
        length = min(_CHUNK, size - at)
        if length <= 0 or read >= most:
            break
        if _is_cached(file, at, length):
            out = np.full(-(-length // PAGE_SIZE), _core.ABSENT, np.uint64)
            _digest(file, at, room, seed, out)
            there = np.flatnonzero(out)
            pages.append(there + at // PAGE_SIZE)
            digests.append(out[there])
            read += len(there) * PAGE_SIZE
        at += _CHUNK
    return np.concatenate(pages), np.concatenate(digests)


def _is_cached(file: int, at: int, length: int) -> bool:
    """Is a part of these bytes in the page cache? True if the kernel cannot tell (before 6.5).

    Source: cachestat(2), and Linux include/uapi/linux/mman.h.
    """
    asked, told = (ctypes.c_uint64 * 2)(at, length), (ctypes.c_uint64 * 5)()
    failed = _LIBC.syscall(_CACHESTAT, file, asked, told, 0)
    return bool(failed) or told[0] > 0


def _digest(file: int, at: int, room: bytearray, seed: int, out: NDArray[np.uint64]) -> None:
    """Write the digests of the pages of a chunk that are in the cache to ``out``.

    A page that is not there ends a read early; then the next one is tried by itself.
    """
    end = at + min(_CHUNK, len(out) * PAGE_SIZE)
    start = at
    while at < end:
        try:
            size = os.preadv(file, [memoryview(room)[: end - at]], at, os.RWF_NOWAIT)
        except BlockingIOError:
            size = 0
        if size <= 0:
            at += PAGE_SIZE
            continue
        pages = -(-size // PAGE_SIZE)
        data = np.frombuffer(room, np.uint8, pages * PAGE_SIZE)
        data[size:] = 0  # the kernel fills the last page of a file with zeros
        first = (at - start) // PAGE_SIZE
        _core.digest(data, seed, out[first : first + pages])
        at += pages * PAGE_SIZE


def _build_id(file: int) -> str:
    """Read the build id of an ELF file (elf(5), NT_GNU_BUILD_ID); empty if it has none."""
    try:
        data = os.preadv(file, [room := bytearray(1 << 16)], 0, os.RWF_NOWAIT)
    except OSError:
        return ""
    head = bytes(room[:data])
    if head[:4] != b"\x7fELF" or head[4:6] != b"\2\1":
        return ""
    try:
        (table,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for at in range(table, table + size * min(count, 256), size or 56):
            kind, _, offset = struct.unpack_from("<IIQ", head, at)
            (length,) = struct.unpack_from("<Q", head, at + 32)
            if kind == _PT_NOTE and (found := _note(head[offset : offset + min(length, 4096)])):
                return found
    except struct.error:
        pass  # it lies beyond what was read, or the file is not as it says
    return ""


def _note(data: bytes) -> str:
    at = 0
    while at + 12 <= len(data):
        name, size, kind = struct.unpack_from("<III", data, at)
        body = at + 12 + -(-name // 4) * 4
        if kind == _NT_GNU_BUILD_ID and data[at + 12 : at + 16] == b"GNU\0":
            return data[body : body + min(size, 64)].hex()
        at = body + -(-size // 4) * 4
    return ""
