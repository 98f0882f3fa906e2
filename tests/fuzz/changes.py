"""Clients that become others, or end, while their connection and their requests live on.

A child connects and says hello, asks for a merge, and changes in the middle of it. Whatever it is
then, the hub may hang up on it and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Callable

from pagemerge.hub import wire
from tests.fuzz.acts import Kind, Scene, frame
from tests.support.commands import NOBODY

_CLONE_NEWUSER, _CLONE_NEWCGROUP, _CLONE_NEWNS = 0x1000_0000, 0x0200_0000, 0x0002_0000
_PR_SET_DUMPABLE = 4


def _libc(name: str, *arguments: int) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        raise OSError(ctypes.get_errno(), name)


def _fork() -> None:
    if os.fork() == 0:
        signal.pause()  # holds the connection until its process group is killed


CHANGES: dict[str, Callable[[], object]] = {
    "execute": lambda: os.execvp("sleep", ["sleep", "9"]),
    "fork": _fork,
    "user": lambda: os.setresuid(NOBODY, NOBODY, NOBODY),
    "real user": lambda: os.setresuid(NOBODY, -1, -1),
    "group": lambda: os.setresgid(NOBODY, NOBODY, NOBODY),
    "groups": lambda: os.setgroups([7]),
    "dumpable": lambda: _libc("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0),
    "user namespace": lambda: _libc("unshare", _CLONE_NEWUSER),
    "cgroup namespace": lambda: _libc("unshare", _CLONE_NEWCGROUP),
    "mount namespace": lambda: _libc("unshare", _CLONE_NEWNS),
    "end": lambda: os._exit(0),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}


def change(scene: Scene) -> int:
    """One child, one change, at one of the steps of a conversation."""
    what, step = scene.chance.choice(list(CHANGES)), scene.chance.randrange(4)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setpgid(0, 0)
            _converse(scene, what, step)
        os._exit(0)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    _reap(child, 0.05)
    return 1 + (step > 0) + 3 * (step > 1)


def _converse(scene: Scene, what: str, step: int) -> None:
    """Of the child: a connection of its own, since the kernel notes who calls connect(2)."""
    peer = scene.connect()
    os.set_inheritable(peer.fileno(), True)
    if step == 0:
        CHANGES[what]()
    peer.sendall(_greeting())
    if step == 1:
        CHANGES[what]()
    for number in range(3):
        ask = wire.INTERN.pack(scene.base, scene.base, 512, 1)
        peer.sendall(frame(Kind.INTERN, 2 * number + 1, ask))
    if step > 1:
        CHANGES[what]()
    with contextlib.suppress(OSError):
        while peer.recv(1 << 16):
            pass


def _greeting() -> bytes:
    body = wire.HELLO.pack(wire.VERSION, 1) + b"\0about to change"
    return frame(Kind.HELLO, 0, body)


def _reap(child: int, patience: float) -> None:
    """Give it a moment, then end it and all that it has forked."""
    handle = os.pidfd_open(child)
    try:
        ended = select.poll()
        ended.register(handle, select.POLLIN)
        ended.poll(int(patience * 1000))
    finally:
        os.close(handle)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
