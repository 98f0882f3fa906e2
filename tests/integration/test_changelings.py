"""A client that becomes another: nobody may have the hub read what it may not read itself.

The kernel names the process that connects. A parent holds the connection and speaks for it, while
the process changes in one of many ways, before the greeting or behind it.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, missing
from tests.support.building import compile_victim
from tests.support.commands import NOBODY
from tests.support.hubs import Hub
from tests.support.stranger import Stranger

pytestmark = pytest.mark.requires("root", "cc")
PLACE = 0x2_0000_0000
SECRET = b"the secret of another program"
TARGET = 1 << 30


def plain(program: Path) -> None:
    program.chmod(0o755)


def set_user(program: Path) -> None:
    program.chmod(0o4755)


def set_group(program: Path) -> None:
    program.chmod(0o2755)


def unreadable(program: Path) -> None:
    program.chmod(0o711)


def capable(program: Path) -> None:
    program.chmod(0o755)
    if not shutil.which("setcap"):
        missing("filecaps", "setcap is not installed")
    done = subprocess.run(["setcap", "cap_net_raw+ep", str(program)], check=False)
    if done.returncode:
        missing("filecaps", "this file system has none")


RIGHTS: dict[str, Callable[[Path], None]] = {
    "set-uid": set_user,
    "set-gid": set_group,
    "unreadable": unreadable,
    "capable": capable,
}
OF_ANYBODY = ["dumpable"]
OF_ROOT = ["user", "real-user", "group", "groups", "capabilities", "user-namespace"]


class Changeling:
    """The process, and the connection that it made, which the test holds."""

    def __init__(self, hub: Hub, program: Path, user: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fd = str(self.socket.fileno())
        argv = [str(program), fd, str(hub.socket)]
        if user:
            ids = ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
            argv = ["setpriv", *ids, *argv]
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.socket.fileno()],
            text=True,
            process_group=0,
        )
        assert self._line() == "connected"
        self.stranger = Stranger(self.socket)

    def become(self, what: str) -> None:
        """Have it change; it has changed when this returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        assert self._line() in ("done", "another"), f"{what} cannot be done here"

    def end(self) -> None:
        self.socket.close()
        if self.process.returncode is not None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)  # who shares its address space, too
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def changeling(hub: Hub) -> Iterator[Callable[[int], Changeling]]:
    folder = hub.socket.parent
    folder.chmod(0o711)
    program = compile_victim("changeling.c", folder / "changeling")
    program.chmod(0o755)
    made: list[Changeling] = []

    def make(user: int) -> Changeling:
        made.append(Changeling(hub, program, user))
        return made[-1]

    yield make
    for it in made:
        it.end()


@pytest.fixture
def another(hub: Hub) -> Callable[[str], Path]:
    """A program with other rights than its user has."""

    def make(rights: str) -> Path:
        program = compile_victim("changeling.c", hub.socket.parent / rights)
        RIGHTS.get(rights, plain)(program)
        return program

    return make


def handed_out(stranger: Stranger, place: int = PLACE, sequence: int = 1) -> list[bytes]:
    """Ask for the page at ``place``: the first bytes of each page of the slabs that come."""
    pages: list[bytes] = []
    try:
        stranger.send(wire.Kind.INTERN, sequence, wire.INTERN.pack(place, TARGET, 1, 1))
        while True:
            data, descriptors, _, _ = socket.recv_fds(stranger.socket, wire.HEADER.size, 4)
            for descriptor in descriptors:
                slab = os.pread(descriptor, 1 << 20, 0)
                pages += [slab[at : at + 64] for at in range(0, len(slab), PAGE_SIZE)]
                os.close(descriptor)
            if not data:
                return pages
            length, kind, number = wire.HEADER.unpack(data)
            if length:
                stranger.socket.recv(length, socket.MSG_WAITALL)
            if kind == wire.Kind.LIST:
                stranger.send(wire.Kind.REGIONS, number)
            elif kind in (wire.Kind.REFUSED, wire.Kind.MERGE):
                return pages
    except (BrokenPipeError, ConnectionResetError):
        return pages


def try_hello(stranger: Stranger) -> bool:
    """Is it welcome?"""
    stranger.send(wire.Kind.HELLO, 0, wire.HELLO.pack(wire.VERSION, 1) + b"\0")
    try:
        return stranger.frame()[0] == wire.Kind.WELCOME
    except ConnectionResetError:
        return False


def test_one_that_stays_is_served(hub: Hub, changeling: Callable[[int], Changeling]) -> None:
    """The others are refused for what they become, and not for how they ask."""
    for user in (NOBODY, 0):
        it = changeling(user)
        it.stranger.hello()
        it.become("nothing")
        assert any(page.startswith(b"what everybody may know") for page in handed_out(it.stranger))


@pytest.mark.parametrize("how", ["execute", "share"])
@pytest.mark.parametrize("rights", [*RIGHTS, "plain"])
def test_a_program_is_executed_behind_the_greeting(
    hub: Hub,
    changeling: Callable[[int], Changeling],
    another: Callable[[str], Path],
    rights: str,
    how: str,
) -> None:
    """Even one without more rights; and also if its old address space lives on."""
    it = changeling(NOBODY)
    it.stranger.hello()
    it.become(f"{how} {another(rights)}")
    assert handed_out(it.stranger) == []
    assert it.stranger.is_dismissed()
    hub.until(lambda: not hub.status().clients, "see it leave")


@pytest.mark.parametrize("how", ["execute", "share"])
@pytest.mark.parametrize("rights", RIGHTS)
def test_a_program_is_executed_before_the_greeting(
    hub: Hub,
    changeling: Callable[[int], Changeling],
    another: Callable[[str], Path],
    rights: str,
    how: str,
) -> None:
    it = changeling(NOBODY)
    it.become(f"{how} {another(rights)}")
    assert not try_hello(it.stranger)
    assert hub.status().clients == ()


@pytest.mark.parametrize("what", [*OF_ANYBODY, *OF_ROOT, "cgroup-namespace"])
def test_something_changes_behind_the_greeting(
    hub: Hub, changeling: Callable[[int], Changeling], what: str
) -> None:
    it = changeling(0 if what not in OF_ANYBODY else NOBODY)
    it.stranger.hello()
    it.become(what)
    assert handed_out(it.stranger) == []
    assert it.stranger.is_dismissed()


@pytest.mark.parametrize("what", ["dumpable", "user", "real-user", "group", "groups"])
def test_something_changes_before_the_greeting(
    hub: Hub, changeling: Callable[[int], Changeling], what: str
) -> None:
    it = changeling(0 if what not in OF_ANYBODY else NOBODY)
    it.become(what)
    assert not try_hello(it.stranger)


def test_one_that_has_ended_while_its_connection_is_held(
    hub: Hub, changeling: Callable[[int], Changeling]
) -> None:
    it = changeling(NOBODY)
    it.stranger.hello()
    it.process.kill()  # not reaped: its number stays taken, and the connection open
    assert handed_out(it.stranger) == []
    assert it.stranger.is_dismissed()


def test_programs_are_executed_during_reads(
    hub: Hub, changeling: Callable[[int], Changeling], another: Callable[[str], Path]
) -> None:
    """At any moment of reading and copying: what comes is never the other program's page."""
    program = another("set-gid")
    for round_ in range(25):
        it = changeling(NOBODY)
        it.stranger.hello()
        assert it.process.stdin is not None
        for number in range(3):  # the hub is in the middle of these when the program is executed
            ask = wire.INTERN.pack(PLACE, TARGET, 1, 1)
            it.stranger.send(wire.Kind.INTERN, 2 * number + 1, ask)
        it.process.stdin.write(f"{'share' if round_ % 2 else 'execute'} {program}\n")
        it.process.stdin.flush()
        for page in handed_out(it.stranger, sequence=7):
            assert SECRET not in page
        it.end()
    hub.assert_alive()


def test_containers_of_root_are_domains_of_their_own(hub: Hub, victim: Spawn) -> None:
    """Without a user namespace their root is the host's by number."""
    from tests.support.bystanders import merged
    from tests.support.frames import frames

    members = [victim("member", env=hub.env) for _ in "ab"]
    for member in members:
        member.ask("copy", pages=1024, seed=1)
        hub.until(partial(merged, member), "merge it")
    code = (
        "import numpy as np, pagemerge, time\n"
        "pages = np.zeros((1024, 512), np.uint64)\n"
        "pages[:] = (np.arange(1024, dtype=np.uint64) * 2**32 + 1)[:, None]\n"
        "kept = pagemerge.copy(pages)\n"
        "print('ready', int((kept != pages).sum()), flush=True); input()"
    )
    for options in (["-p", "-f", "--mount-proc"], ["--cgroup"]):
        argv = ["unshare", *options, sys.executable, "-c", code]
        inside = subprocess.Popen(
            argv,
            env={**os.environ, **hub.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert inside.stdout is not None
        assert inside.stdout.readline().strip() == "ready 0"
        domains = {it.domain for it in hub.status().clients}
        assert len(domains) == 2, domains
        assert any("namespace" in it for it in domains)
        assert hub.status().store_bytes == 2 * 1024 * PAGE_SIZE
        inside.communicate("\n")
        hub.until(lambda: hub.status().store_bytes == 1024 * PAGE_SIZE, "forget the container")
    assert frames(members[0]) == frames(members[1])
