"""Trust domains: equal pages of two are never shared, by the kernel's page frame numbers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.errors import PagemergeError
from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.bystanders import merged
from tests.support.frames import frames
from tests.support.hubs import Hub
from tests.support.stranger import Stranger

PAGES = 1024


def members_of(hub: Hub, victim: Spawn, *domains: str) -> list[Child]:
    """One process of this user for each name, all with the same contents."""
    found = [victim("member", env={**hub.env, "PAGEMERGE_DOMAIN": name}) for name in domains]
    for member in found:
        member.ask("copy", pages=PAGES, seed=1)
        hub.until(partial(merged, member), "merge it")
        assert member.ask("check") == {"wrong": 0}
    return found


@pytest.mark.requires("root")
def test_guests_of_one_user_are_kept_apart(hub: Hub, victim: Spawn) -> None:
    a, b, a_too, plain, plain_too = members_of(hub, victim, "a", "b", "a", "", "")
    assert len(frames(a)) == len(frames(b)) == len(frames(plain)) == PAGES
    assert frames(a) == frames(a_too)
    assert frames(plain) == frames(plain_too)
    assert not frames(a) & frames(b)
    assert not frames(plain) & (frames(a) | frames(b))
    status = hub.status()
    assert status.store_bytes == 3 * PAGES * PAGE_SIZE
    assert status.pages_sharing == 2 * PAGES
    of_process = {it.pid: it.domain for it in status.clients}
    assert of_process[a.pid] == of_process[a_too.pid] == of_process[plain.pid] + ", domain a"


@pytest.mark.requires("root", "uffd")
def test_the_background_keeps_them_apart_too(hub: Hub, victim: Spawn) -> None:
    names = ["a", "b", "a", "b"]
    members = [victim("member", env={**hub.env, "PAGEMERGE_DOMAIN": name}) for name in names]
    for member in members:
        member.ask("fill", pages=PAGES, seed=2)
    hub.until(lambda: hub.status().pages_sharing == 2 * PAGES, "merge both domains")
    assert frames(members[0]) == frames(members[2])
    assert frames(members[1]) == frames(members[3])
    assert not frames(members[0]) & frames(members[1])


@pytest.mark.requires("root")
def test_after_a_new_hub_slabs_are_in_their_domains(hub_socket: Path, victim: Spawn) -> None:
    with Hub(hub_socket) as hub:
        a, b = members_of(hub, victim, "a", "b")
        before = [frames(a), frames(b)]
        hub.process.kill()
        hub.process.wait()
    with Hub(hub_socket) as hub:
        hub.until(lambda: hub.status().pages_shared == 2 * PAGES, "adopt what is merged")
        late_a, late_b = members_of(hub, victim, "a", "b")
        assert [frames(late_a), frames(late_b)] == before == [frames(a), frames(b)]


def slab_of(member: Child) -> int:
    """A descriptor of a slab that a member maps, as somebody with its rights may get one."""
    for path in Path(f"/proc/{member.pid}/map_files").iterdir():
        if "pagemerge-slab" in str(path.readlink()):
            return os.open(path, os.O_RDONLY)
    raise AssertionError("it maps no slab")


@pytest.mark.requires("root")
def test_a_slab_of_another_domain_does_not_spread(hub: Hub, victim: Spawn) -> None:
    """Handed back by somebody of another domain, it is nobody's there."""
    (a,) = members_of(hub, victim, "a")
    slab = slab_of(a)
    with Stranger(hub.socket) as thief:
        thief.hello(domain=b"b")
        thief.send(wire.Kind.HANDBACK, 0, descriptors=[slab])
        thief.regions()
        (b,) = members_of(hub, victim, "b")
        assert not frames(a) & frames(b)
        assert hub.status().store_bytes == 2 * PAGES * PAGE_SIZE
        (late,) = members_of(hub, victim, "a")
        assert frames(late) == frames(a)
    os.close(slab)
    assert "hands back a slab of another domain" in hub.log()


NAMES = ["", "-x", "../..", "a b", "x" * 65, "\x1b[2J", "ä", "a/b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_name_is_wrong_usage(name: str) -> None:
    argv = [sys.executable, "-m", "pagemerge", "run", f"--domain={name}", "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot name a domain: use up to 64 of the letters" in done.stderr
    assert done.stderr.rstrip("\n").isprintable(), "more than one line, or worse"


def test_a_bad_name_of_the_environment(hub: Hub, victim: Spawn) -> None:
    member = victim("member", env={**hub.env, "PAGEMERGE_DOMAIN": "a b"})
    with pytest.raises(PagemergeError, match="UsageError: 'a b' cannot name a domain"):
        member.ask("fill", pages=1, seed=1)
    env = {**os.environ, "PAGEMERGE_DOMAIN": "a b"}
    argv = [sys.executable, "-m", "pagemerge", "run", "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2


def test_the_hub_takes_no_bad_name(hub: Hub) -> None:
    for name in [*NAMES[1:], "a\n", "é" * 1000]:
        with Stranger(hub.socket) as stranger:
            body = wire.HELLO.pack(wire.VERSION, 1) + name.encode() + b"\0"
            stranger.send(wire.Kind.HELLO, 0, body)
            assert stranger.is_dismissed(), name


def test_domains_end_with_their_last_client(hub: Hub) -> None:
    """Their names are the clients' choice: thousands must not stay."""
    before = resident(hub.pid)
    for number in range(1000):
        with Stranger(hub.socket) as stranger:
            stranger.hello(domain=b"domain-%d" % number)
    hub.until(lambda: not hub.status().clients, "see them leave")
    assert resident(hub.pid) < before + (5 << 20)


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_SIZE


def test_an_agent_that_is_not_let_in_does_not_insist(hub_socket: Path, victim: Spawn) -> None:
    """A hub that hangs up without a welcome, being of another version say, is asked rarely."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(hub_socket))
        server.listen()
        env = {"PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "0"}
        member = victim("member", env=env)
        member.ask("fill", pages=4, seed=1)
        member.question("intern")
        end, calls = time.monotonic() + 3.0, 0
        server.settimeout(0.1)
        while time.monotonic() < end:
            try:
                peer, _ = server.accept()
            except TimeoutError:
                continue
            calls += 1
            peer.close()
        assert 2 <= calls <= 10
        with pytest.raises(PagemergeError, match="the hub does not let us join"):
            member.answer()
        assert member.ask("check") == {"wrong": 0}
