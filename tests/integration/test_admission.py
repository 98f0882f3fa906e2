"""What one user may take of a hub of root's: each bound is reached, and another user goes on."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.hub import admission, wire
from tests.conftest import Spawn
from tests.fuzz.campaign import resident
from tests.support.bystanders import merged
from tests.support.commands import NOBODY
from tests.support.hubs import Hub
from tests.support.stranger import Stranger

pytestmark = pytest.mark.requires("root")
PAGES = 1024


class Another:
    """A member of another user, which must go on."""

    def __init__(self, hub: Hub, victim: Spawn) -> None:
        self.hub, self.seed = hub, 0
        self.member: Child = victim("member", str(NOBODY), env=hub.env)

    def go_on(self) -> None:
        self.seed += 1
        self.member.ask("copy", pages=PAGES, seed=self.seed)
        self.hub.until(lambda: merged(self.member), "merge for the other user")
        assert self.member.ask("check") == {"wrong": 0}


@pytest.fixture
def another(hub: Hub, victim: Spawn) -> Another:
    hub.socket.parent.chmod(0o711)
    found = Another(hub, victim)
    found.go_on()
    return found


@pytest.fixture
def room() -> Iterator[None]:
    """Descriptors for many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections(pid: int) -> int:
    return sum("socket:" in str(it.readlink()) for it in Path(f"/proc/{pid}/fd").iterdir())


def test_silent_connections(hub: Hub, another: Another, room: None) -> None:
    """The oldest is closed for each that comes beyond the bound."""
    with ExitStack() as open_:
        silent = [
            open_.enter_context(Stranger(hub.socket)) for _ in range(2 * admission.MOST_SILENT)
        ]
        for early in silent[: admission.MOST_SILENT]:
            assert early.is_dismissed()
        another.go_on()
        assert connections(hub.pid) < admission.MOST_SILENT + 16
        silent[-1].hello()


def test_connections_of_another_user(hub_socket: Path, victim: Spawn) -> None:
    """Beyond the bound a connection is refused with the reason; the hub's own user may come."""
    before = ["/bin/sh", "-c", 'ulimit -n 256 && exec "$@"', "sh"]
    with Hub(hub_socket, before=before) as hub:
        hub.socket.parent.chmod(0o711)
        thief = victim("member", str(NOBODY))
        most = 256 // 4 // admission.DESCRIPTORS
        code = f"""
import socket
ask = {wire.HEADER.pack(0, wire.Kind.STATUS, 0)!r}
member.held, said = [], b""
for number in range({most} + 1):
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(9)
    peer.connect({str(hub_socket)!r})
    member.held.append(peer)
    if number < {most}:
        peer.sendall(ask)
    said = peer.recv(9999)
answer = dict(said=said.decode(errors="replace"))
"""
        said = thief.ask("call", code=code)["said"]
        assert f"user {NOBODY} has too many connections already" in said
        member = victim("member", env=hub.env)
        member.ask("copy", pages=PAGES, seed=1)
        hub.until(lambda: merged(member), "merge for the other user")


def test_unfinished_frames(hub: Hub, another: Another) -> None:
    """All of a user's connections together, however little each of them is."""
    before, part = resident(hub.pid), 3 << 20
    with ExitStack() as open_:
        strangers = [open_.enter_context(Stranger(hub.socket)) for _ in range(20)]
        for stranger in strangers:
            stranger.hello()
            stranger.until(wire.Kind.LIST)
            stranger.socket.settimeout(2)
            with contextlib.suppress(OSError):
                data = wire.HEADER.pack(4 << 20, wire.Kind.REGIONS, 2) + bytes(part)
                stranger.socket.sendall(data)
        hub.until(lambda: "its user has sent too much that is not finished" in hub.log(), "hang up")
        another.go_on()
        assert resident(hub.pid) < before + 3 * admission.MOST_UNFINISHED


def test_descriptors_that_nobody_asked_for(hub: Hub, another: Another) -> None:
    """They are closed with the connection, and the bound is the user's, not the connection's."""
    with ExitStack() as open_:
        for _ in range(12):
            stranger = open_.enter_context(Stranger(hub.socket))
            stranger.hello()
            stranger.send(wire.Kind.NOTE, 0, b"", [0] * 16)
        another.go_on()
        held = [it.readlink() for it in Path(f"/proc/{hub.pid}/fd").iterdir()]
        mine = Path("/proc/self/fd/0").readlink()
        assert held.count(mine) <= admission.MOST_DESCRIPTORS + 1
