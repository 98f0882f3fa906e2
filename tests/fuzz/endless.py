"""A file that keeps everybody waiting who asks for its size, reads it or closes it.

A file system of our own (FUSE, linux/fuse.h) that answers what it takes to open the file, and
nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_INIT, _LOOKUP, _FORGET, _GETATTR, _OPEN, _RELEASE, _BATCH_FORGET = 26, 1, 2, 3, 14, 18, 42
_OPENDIR, _RELEASEDIR, _STATFS, _SETATTR, _READ, _WRITE = 27, 29, 17, 4, 15, 16
_ENOSYS, _EIO = 38, 5
_UNANSWERED = (_FORGET, _BATCH_FORGET)
"""Not by anybody."""
_ROOT, _FILE = 1, 2
_IN = struct.Struct("=IIQQIIII")
"""Length, opcode, unique number, node, user, group, process, lengths of extensions."""
_CLONE_NEWNS, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2


def _attributes(node: int) -> bytes:
    mode = 0o40755 if node == _ROOT else 0o100644
    return struct.pack("=6Q10I", node, 4096, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _answer(opcode: int, node: int) -> bytes | int | None:
    """A body, an error number, or None for no answer at all."""
    if opcode == _INIT:
        return struct.pack("=4I2H2I2H8I", 7, 31, 1 << 16, 0, 8, 8, 1 << 16, 1, 0, 0, *[0] * 8)
    if opcode == _LOOKUP:
        return struct.pack("=4Q2I", _FILE, 0, 0, 0, 0, 0) + _attributes(_FILE)
    if opcode == _GETATTR and node == _ROOT:
        return struct.pack("=QII", 0, 0, 0) + _attributes(_ROOT)
    if opcode in (_OPEN, _OPENDIR) and node in (_ROOT, _FILE):
        return struct.pack("=QII", 1, 0, 0)
    if opcode in (_RELEASE, _RELEASEDIR):
        return b""
    if node == _FILE or opcode in _UNANSWERED:
        return None
    return _ENOSYS


class EndlessFile:
    """The file, as a context; ``descriptor`` is open. ``OSError`` where FUSE cannot be had.

    To be made in a process without other threads, which leaves the mounts of the host. Process
    ``whom`` alone is kept waiting: our own children close the file when they end, and nothing could
    end one that waits for that. Without ``whom``, everybody who reads the file waits, and nobody
    else; ``failures``: so many reads fail at once before that. ``writes``: who reads the file finds
    zeros, and who writes it waits; that includes the kernel, when it writes a shared mapping back.
    """

    def __init__(self, whom: int | None, failures: int = 0, *, writes: bool = False) -> None:
        self._whom, self._failures, self._writes = whom, failures, writes

    def __enter__(self) -> Self:
        libc = ctypes.CDLL(None, use_errno=True)

        def call(name: str, *arguments: object) -> None:
            if getattr(libc, name)(*arguments):
                raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            call("unshare", _CLONE_NEWNS)
            call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
            folder = tempfile.mkdtemp(prefix="pagemerge-endless-")
            path = os.fsencode(folder)
            options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
            call("mount", b"endless", path, b"fuse", ctypes.c_ulong(0), options)
            self._server = self._serve_elsewhere(device)
            mode = os.O_RDWR if self._writes else os.O_RDONLY
            self.descriptor = os.open(f"{folder}/file", mode | os.O_CLOEXEC)
            call("umount2", path, _MNT_DETACH)
            os.rmdir(folder)  # noqa: PTH106
        finally:
            os.close(device)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # nobody serves it any more
            os.close(self.descriptor)
        self.end()

    def end(self) -> None:
        """Have every read fail from now on: nobody serves the file any more."""
        if self._server:
            os.close(self._alive)
            os.waitpid(self._server, 0)
            self._server = 0

    def _serve_elsewhere(self, device: int) -> int:
        """Start who answers: a child, which ends when nobody holds the other end of its pipe.

        A process that had both the file and the only answers could not end: it closes the file
        before it lets go of the device.
        """
        ended, self._alive = os.pipe()
        child = os.fork()
        if child:
            os.close(ended)
            return child
        os.close(self._alive)
        with contextlib.suppress(BaseException):
            self._serve(device, ended)
        os._exit(0)

    def _of_writable(
        self, opcode: int, request: bytes, answer: bytes | int | None
    ) -> bytes | int | None:
        """Answer for a file that can be read, has a size, and keeps who writes it waiting."""
        if opcode == _READ:
            (size,) = struct.unpack_from("=I", request, _IN.size + 16)
            return bytes(size)
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("=QII", 0, 0, 0) + _attributes(_FILE)
        return answer

    def _waits(self, opcode: int, thread: int) -> bool:
        """Is this request, which thread ``thread`` waits for, left unanswered?"""
        if self._whom is not None:
            return Path(f"/proc/{self._whom}/task/{thread}").exists()
        if self._writes:
            return opcode == _WRITE
        if opcode == _READ:
            self._failures -= 1
        return opcode == _READ and self._failures < 0

    def _serve(self, device: int, ended: int) -> None:
        waiter = select.poll()
        waiter.register(device, select.POLLIN)
        waiter.register(ended, 0)
        while ended not in (ready := dict(waiter.poll())):
            if ready[device] & select.POLLERR:  # unmounted, and nobody has the file open
                return
            request = os.read(device, 1 << 20)
            _, opcode, unique, node, _, _, thread, _ = _IN.unpack_from(request)
            answer = _answer(opcode, node)
            if self._writes and node == _FILE:
                answer = self._of_writable(opcode, request, answer)
            if answer is None and (opcode in _UNANSWERED or self._waits(opcode, thread)):
                continue
            answer = (_EIO if opcode == _READ else _ENOSYS) if answer is None else answer
            body = answer if isinstance(answer, bytes) else b""
            errno = -answer if isinstance(answer, int) else 0
            os.write(device, struct.pack("=IiQ", 16 + len(body), errno, unique) + body)
