"""Clients that fall silent, stop, change their user or make the hub wait, and hubs that lie."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.errors import AccessDenied, HubError, NoSuchProcess, PagemergeError
from pagemerge.hub import wire
from pagemerge.hub.client import MOST_REQUESTS
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, require
from tests.support.bystanders import PAGES, Bystanders, merged
from tests.support.commands import NOBODY
from tests.support.hubs import Hub
from tests.support.stranger import F_ADD_SEALS, SEALED, Stranger, plan


@pytest.fixture
def bystanders(hub: Hub, victim: Spawn) -> Bystanders:
    found = Bystanders(hub, victim)
    found.go_on()
    return found


@pytest.fixture
def open_hub(hub: Hub) -> Hub:
    """A hub of root whose socket everybody can reach."""
    hub.socket.parent.chmod(0o711)
    return hub


def test_a_client_that_is_stopped(hub: Hub, bystanders: Bystanders, victim: Spawn) -> None:
    """In the middle of merging; it goes on where it was when it continues."""
    stopped = victim("member", env=hub.env)
    stopped.ask("fill", pages=4 * PAGES, seed=100)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        bystanders.go_on()
        bystanders.go_on()
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    stopped.ask("fill", pages=PAGES, seed=100)
    assert stopped.ask("intern") == {}
    assert merged(stopped)
    assert stopped.ask("check") == {"wrong": 0}


def test_clients_that_are_killed_at_any_point(
    hub: Hub, bystanders: Bystanders, victim: Spawn
) -> None:
    for round_ in range(8):
        killed = victim("member", env=hub.env)
        killed.ask("fill", pages=PAGES, seed=200 + round_ % 2)
        if round_ % 2:
            killed.question("intern")
        killed.process.kill()
        killed.process.wait()
    bystanders.go_on()
    hub.until(lambda: len(hub.status().clients) == 2, "forget the dead")


@pytest.mark.requires("uffd")
def test_a_client_that_makes_its_reader_wait(hub: Hub, bystanders: Bystanders) -> None:
    """The hub reads a page that never comes: this process's own userfaultfd holds it back."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(323, os.O_CLOEXEC)
    with mmap.mmap(-1, 16 * PAGE_SIZE, flags=mmap.MAP_PRIVATE) as memory:
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        api = ctypes.create_string_buffer(struct.pack("=QQQ", 0xAA, 0, 0))
        assert libc.ioctl(descriptor, ctypes.c_ulong(0xC018AA3F), api) == 0
        missing = struct.pack("=QQQQ", base, 16 * PAGE_SIZE, 1, 0)
        register = ctypes.create_string_buffer(missing)
        assert libc.ioctl(descriptor, ctypes.c_ulong(0xC020AA00), register) == 0
        with Stranger(hub.socket) as stranger:
            stranger.hello()
            for _ in "ab":  # asked again, the hub has taken the first answer in
                stranger.regions((1, base, 16))
            # Each would hold the lock of the domain for a deadline, one after the other.
            for number in range(MOST_REQUESTS):
                ask = wire.INTERN.pack(base, base, 4, 1)
                stranger.send(wire.Kind.INTERN, 2 * number + 1, ask)
            bystanders.go_on()
            for member in bystanders.members:
                member.ask("intern")
        os.close(descriptor)  # lets the hub's reader go
    bystanders.go_on()


def test_a_client_that_asks_and_never_reports(hub: Hub, bystanders: Bystanders) -> None:
    """What it may map stays, and nothing else; and it may not ask for ever."""
    with mmap.mmap(-1, 4 * PAGE_SIZE, flags=mmap.MAP_PRIVATE) as memory, Stranger(hub.socket) as it:
        memory.write(os.urandom(4 * PAGE_SIZE))  # nothing that the hub would plan by itself
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        it.hello()
        for _ in "ab":  # asked again, the hub has taken the first answer in
            it.regions((1, base, 4))
        it.send(wire.Kind.INTERN, 1, wire.INTERN.pack(base, base, 4, 1))
        it.until(wire.Kind.MERGE)
        for _ in range(3):
            bystanders.go_on()
        most = (PAGES + 4) * PAGE_SIZE
        hub.until(lambda: hub.status().store_bytes <= most, "drop what honest clients have left")
        assert hub.status().store_bytes > PAGES * PAGE_SIZE
        for number in range(1, MOST_REQUESTS + 1):
            it.send(wire.Kind.INTERN, 2 * number + 1, wire.INTERN.pack(base, base, 4, 1))
        assert it.is_dismissed()
    bystanders.go_on()


def test_a_caller_that_does_not_wait(hub: Hub, victim: Spawn) -> None:
    """Its agent says that nothing came of the plan, and the store is given back."""
    member = victim("member", env=hub.env)
    member.ask("fill", pages=PAGES, seed=1)
    member.ask("intern")
    member.ask("fill", pages=PAGES, seed=2)
    os.kill(hub.pid, signal.SIGSTOP)
    try:
        code = """
import signal
def give_up(*_):
    raise InterruptedError
signal.signal(signal.SIGALRM, give_up)
signal.alarm(1)
try:
    pagemerge.intern(member.memory)
    answer = dict(done=True)
except InterruptedError:
    answer = dict(done=False)
"""
        assert member.ask("call", code=code) == {"done": False}
    finally:
        os.kill(hub.pid, signal.SIGCONT)
    member.ask("fill", pages=8, seed=3)
    member.ask("intern")
    hub.until(lambda: hub.status().store_bytes == 8 * PAGE_SIZE, "drop what nobody maps")
    assert member.ask("check") == {"wrong": 0}


@pytest.mark.requires("root", "cc")
def test_a_client_that_becomes_another_users_program(open_hub: Hub) -> None:
    """It left its domain with exec: nobody may have a hub of root read a set-uid program."""
    folder = open_hub.socket.parent
    source, program = folder / "setuid.c", folder / "setuid"
    source.write_text(
        "#include <stdio.h>\n#include <unistd.h>\n"
        'static char secret[4096] __attribute__((aligned(4096))) = "the secret of another user";\n'
        'int main(void) { secret[99] = 1; printf("%lu\\n", (unsigned long)secret);\n'
        "fflush(stdout); pause(); }\n"
    )
    subprocess.run(["cc", "-o", str(program), str(source)], check=True)
    program.chmod(0o4755)
    thief = subprocess.Popen(
        [sys.executable, "-m", "tests.victims.thief", str(open_hub.socket), str(program)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert thief.stdout is not None
        said = thief.stdout.readline().decode()
        assert Path(f"/proc/{thief.pid}/status").read_text().split("Uid:")[1].split()[1] == "0"
        assert "dismissed" in said or "refused" in said
    finally:
        thief.kill()
        thief.communicate()
    open_hub.assert_alive()


@pytest.mark.requires("root")
def test_a_client_that_gives_up_its_rights(open_hub: Hub, victim: Spawn) -> None:
    """setuid(2) in a process with an agent: all threads change, and the domain with them.

    The kernel lets no process of its new user read it, since it may hold what root had read. So it
    is no client any more, until it says itself that it may be read.
    """
    member = victim("member", env=open_hub.env)
    member.ask("fill", pages=PAGES, seed=1)
    member.ask("intern")
    # Not at once: the kernel may be moving a page frame just now, and shows none meanwhile.
    open_hub.until(lambda: merged(member), "see it merged")
    member.ask(
        "call", code=f"os.setresuid({NOBODY}, {NOBODY}, {NOBODY}); answer = dict(uid=os.getuid())"
    )
    other = victim("member", env=open_hub.env)
    other.ask("fill", pages=PAGES, seed=1)

    def moved() -> bool:
        row = open_hub.client(member.pid)
        return row is not None and row.uid == NOBODY

    open_hub.until(lambda: open_hub.client(member.pid) is None, "notice the change of user")
    open_hub.until(lambda: "does not let its own user read it" in open_hub.log(), "say why")
    code = "import ctypes; answer = dict(done=ctypes.CDLL(None).prctl(4, 1, 0, 0, 0))"
    assert member.ask("call", code=code) == {"done": 0}
    open_hub.until(moved, "take it in again")
    assert member.ask("check") == {"wrong": 0}
    member.ask("fill", pages=PAGES, seed=1)
    assert member.ask("check") == {"wrong": 0}
    assert [it.uid for it in open_hub.status().clients if it.pid == other.pid] == [0]


@pytest.mark.requires("root")
def test_an_ordinary_user_without_userfaultfd(hub_socket: Path, victim: Spawn) -> None:
    """The barrier is ``intern``, and says why; merging at birth and on demand saves as ever."""
    if os.access("/dev/userfaultfd", os.F_OK) and Path("/dev/userfaultfd").stat().st_mode & 0o006:
        pytest.skip("everybody may use /dev/userfaultfd here")
    if Path("/proc/sys/vm/unprivileged_userfaultfd").read_text().strip() == "1":
        pytest.skip("vm.unprivileged_userfaultfd is 1")
    with Hub(hub_socket) as hub:
        hub.socket.parent.chmod(0o711)
        members = [victim("member", str(NOBODY), env=hub.env) for _ in "ab"]
        for member in members:
            member.ask("copy", pages=PAGES, seed=7)
            assert merged(member)
            assert member.ask("check") == {"wrong": 0}
            said = member.ask("summary")
            assert said["barrier"] == 0
            assert "vm.unprivileged_userfaultfd" in said["reason"]
            row = hub.client(member.pid)
            assert row is not None
            assert row.barrier == "intern"
            assert "vm.unprivileged_userfaultfd" in row.note
        assert hub.status().pages_sharing == PAGES
        for member in members:
            member.ask("fill", pages=PAGES, seed=8)
            member.ask("intern")
            assert merged(member)
        hub.until(lambda: hub.status().store_bytes == PAGES * PAGE_SIZE, "drop the old store")


def test_no_hub(hub_socket: Path, victim: Spawn) -> None:
    env = {"PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "0"}
    member = victim("member", env=env)
    member.ask("fill", pages=16, seed=3)
    with pytest.raises(PagemergeError, match=r"HubError: no hub answers at .*pagemerge daemon"):
        member.ask("intern")
    assert member.ask("check") == {"wrong": 0}
    with pytest.raises(HubError, match=r"no hub runs at .*without --socket"):
        fetch_status(hub_socket)


def test_a_hub_that_hangs_up_is_not_taken_for_none(hub_socket: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor() as beside:
        server.bind(str(hub_socket))
        server.listen()
        asked = beside.submit(fetch_status, hub_socket)
        server.accept()[0].close()
        with pytest.raises(HubError, match="gives no answer"):
            asked.result(10)


class Request(NamedTuple):
    """An agent's request to its hub, which the test answers."""

    agent: Stranger
    member: Child
    sequence: int
    target: int
    slab: int

    def plan(self, sequence: int, *parts: tuple[int, int]) -> tuple[int, bytes]:
        """Have pages (first, count) merged with the slots of the same numbers; returns how many
        were refused, and a bit for each page that was merged."""
        runs = [
            (self.target + first * PAGE_SIZE, self.slab, first, count) for first, count in parts
        ]
        self.agent.send(wire.Kind.MERGE, sequence, plan(runs))
        _, report = self.agent.until(wire.Kind.MERGED)
        return wire.MERGED.unpack_from(report)[4], report[wire.MERGED.size :]


@pytest.fixture
def request_of_8(hub_socket: Path, victim: Spawn) -> Iterator[Request]:
    """A member asks to merge the first 8 of its 64 pages; a slab holds what all of them hold."""
    content = b"".join(struct.pack("=Q", page * 2**32 + 5) * 512 for page in range(64))
    slab = os.memfd_create("pagemerge-slab", os.MFD_ALLOW_SEALING)
    with closing(os.fdopen(slab, "wb")) as file, socket.socket(socket.AF_UNIX) as server:
        file.write(content)
        file.flush()
        fcntl.fcntl(slab, F_ADD_SEALS, SEALED)
        server.bind(str(hub_socket))
        server.listen()
        env = {"PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "0"}
        member = victim("member", env=env)
        member.ask("fill", pages=64, seed=5)
        member.question("call", code="answer = dict(x=pagemerge.intern(member.memory[:8]) is None)")
        with Stranger(server.accept()[0]) as agent:
            sequence, body = agent.until(wire.Kind.INTERN)
            source, target, pages, _ = wire.INTERN.unpack(body)
            assert (source, pages) == (target, 8)
            agent.send(wire.Kind.SLAB, 0, descriptors=[slab])
            yield Request(agent, member, sequence, target, os.fstat(slab).st_ino)
            member.answer()
            assert member.ask("check") == {"wrong": 0}


def test_a_hub_that_lies_about_a_request(request_of_8: Request) -> None:
    """Merging without a barrier is for the pages that the caller named: no hub can widen that."""
    refused, merged = request_of_8.plan(request_of_8.sequence, (32, 8), (0, 8))
    assert (refused, merged) == (8, b"\x00\xff"), "pages that nobody named were merged"


def test_no_other_plan_is_carried_out_where_the_hub_reads_for_a_request(
    request_of_8: Request,
) -> None:
    """The hub would find no pages where a barrier holds them, and would merge nothing."""
    require("uffd")
    assert request_of_8.plan(2, (4, 8)) == (8, b"\x00")
    assert request_of_8.plan(4, (8, 8)) == (0, b"\xff")
    assert request_of_8.plan(request_of_8.sequence, (0, 8)) == (0, b"\xff")
    assert request_of_8.plan(6, (0, 8)) == (0, b"\xff")


def test_no_such_process_and_someone_elses() -> None:
    from pagemerge.linux import accounts

    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(NoSuchProcess, match=str(gone.pid)):
        accounts.resident(gone.pid)
    if os.geteuid():
        with pytest.raises(AccessDenied):
            accounts.resident(1)
        return
    code = (
        "import os; from pagemerge.linux import accounts; import traceback, linecache\n"
        f"os.setgroups([]); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "accounts.resident(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "AccessDenied" in done.stderr
    assert "process 1" in done.stderr
