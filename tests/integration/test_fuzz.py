"""Strangers who say anything: to a hub beside honest clients, and to the agent of a program."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import tempfile
from pathlib import Path

from pagemerge.demo.dialog import Child
from pagemerge.hub import wire
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn, lacks_uffd
from tests.fuzz import report
from tests.fuzz.campaign import Campaign
from tests.fuzz.descriptors import forged
from tests.fuzz.talk import NUMBERS
from tests.support.hubs import PATIENCE
from tests.support.stranger import F_ADD_SEALS, SEALED, Stranger, plan

MESSAGES = 6_000
PAGES = 256


def test_a_hub_bears_whatever_strangers_say_and_do(tmp_path: Path) -> None:
    """More of it, and waits measured more strictly: ``make fuzz``. In a run this short, beside
    other tests, a tenth of a second is noise."""
    with (
        tempfile.TemporaryDirectory(prefix="pagemerge-fuzz-") as folder,
        Campaign(Path(folder), 7, print) as campaign,
    ):
        result = campaign.run(MESSAGES, phase=2.0, floor=0.2)
    assert result.faults == []
    assert result.messages >= MESSAGES
    page = tmp_path / "reliability.md"
    report.write(page, result, MESSAGES)
    report.write(page, result, MESSAGES)
    text = page.read_text()
    assert text.count(report.HEADING) == 1
    assert "**All is well in this run.**" in text
    assert folder not in text


def slab_of_member(seed: int) -> int:
    """A slab as it should be, of the pages that a member would have; the caller closes it."""
    descriptor = os.memfd_create("pagemerge-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    for page in range(PAGES):
        os.write(descriptor, struct.pack("=Q", page * 2**32 + seed) * (PAGE_SIZE // 8))
    fcntl.fcntl(descriptor, F_ADD_SEALS, SEALED)
    return descriptor


class Liar:
    """A hub that says anything to an agent."""

    def __init__(self, server: socket.socket, seed: int) -> None:
        self.server, self.random = server, random.Random(seed)
        self.descriptors = [slab_of_member(0), *forged()]
        self.agent = self._greeted()

    def _greeted(self) -> Stranger:
        agent = Stranger(self.server.accept()[0])
        agent.send(wire.Kind.WELCOME, 0, wire.HELLO.pack(wire.VERSION, 0))
        return agent

    def say(self, base: int) -> None:
        """One frame; the agent comes again when it has hung up."""
        chance = self.random
        kind = chance.choice([17, 18, 19, 19, 20, 20, 20, 20, 21, 22, 99])
        body, descriptors = chance.randbytes(chance.choice([0, 7, 24])), []
        if kind == wire.Kind.SLAB and chance.random() < 0.9:
            most = 4 if chance.random() < 0.7 else len(self.descriptors)
            descriptors = [self.descriptors[chance.randrange(most)]]
        elif kind == wire.Kind.MERGE:
            body = plan([self._run(base) for _ in range(chance.randint(1, 20))])
        elif kind == wire.Kind.WELCOME:
            body = wire.HELLO.pack(wire.VERSION, 0)
        sequence = chance.choice([0, 2, chance.randrange(2**64)])
        try:
            self.agent.send(kind, sequence, body, descriptors)
            self.agent.pass_over()
        except OSError:
            self.agent.socket.close()
            self.agent = self._greeted()

    def _run(self, base: int) -> tuple[int, int, int, int]:
        """Pages of the agent's own, mostly, and slabs that it has."""
        chance = self.random
        page = chance.randrange(PAGES)
        address = base + page * PAGE_SIZE
        known = [os.fstat(it).st_ino for it in self.descriptors[:4]]
        if chance.random() < 0.6:
            return address, known[0], page, min(chance.randint(1, 9), PAGES - page)
        if chance.random() < 0.02:
            address = chance.choice(NUMBERS)
        slab = chance.choice([0, 0, 2**64 - 1, *known, 12345])
        pages = chance.randint(0, 4) if chance.random() < 0.98 else chance.choice([70, 2**32 - 1])
        return address, slab, chance.choice([0, 0, 1, 2, 2**32 - 1]), pages


def lied_to(path: Path, victim: Spawn) -> tuple[socket.socket, Child, int]:
    """A hub's socket of our own, and a client with memory that joins there."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()
    server.settimeout(PATIENCE)
    env = {"PAGEMERGE_SOCKET": str(path), "PAGEMERGE_AUTOSTART": "0"}
    member = victim("member", env=env)
    return server, member, member.ask("fill", pages=PAGES, seed=5)["base"]


def test_an_agent_bears_whatever_a_hub_says(hub_socket: Path, victim: Spawn) -> None:
    """Its program writes all the time, and finds every byte as it wrote it."""
    server, member, base = lied_to(hub_socket, victim)
    with server:
        member.ask("write", first=0, pages=PAGES, seed=0)
        member.ask("scribble")
        liar, seen = Liar(server, seed=3), 0
        for _ in range(60):
            for _ in range(100):
                liar.say(base)
            seen = max(seen, member.ask("summary")["slabbed_pages"])
        assert seen > 0 or lacks_uffd(), "no plan was good enough to be carried out"
        assert member.ask("written")["turns"] > 0
        assert member.ask("check") == {"wrong": 0}
        for descriptor in liar.descriptors:
            os.close(descriptor)
        liar.agent.socket.close()


def test_a_plan_beyond_all_pages_costs_an_agent_nothing(hub_socket: Path, victim: Spawn) -> None:
    """A bit a page for 2^32 pages a run would be gigabytes."""
    server, member, base = lied_to(hub_socket, victim)
    with server, Stranger(server.accept()[0]) as agent:
        agent.send(wire.Kind.WELCOME, 0, wire.HELLO.pack(wire.VERSION, 0))
        agent.send(wire.Kind.LIST, 2)
        agent.until(wire.Kind.REGIONS)
        agent.send(wire.Kind.MERGE, 4, plan([(base, 0, 0, 2**32 - 1)] * 16))
        assert agent.is_dismissed()
        peak = Path(f"/proc/{member.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        assert int(peak) < 200 << 10
        assert member.ask("check") == {"wrong": 0}


def test_a_plan_that_names_pages_twice_loses_no_write(hub_socket: Path, victim: Spawn) -> None:
    """Windows that are held at the same time share pages then: whatever is let go for one of
    them must not be taken as held for the next."""
    server, member, base = lied_to(hub_socket, victim)
    with server:
        member.ask("write", first=0, pages=PAGES, seed=0)
        member.ask("scribble")
        slab, chance = slab_of_member(0), random.Random(5)
        with Stranger(server.accept()[0]) as agent:
            agent.send(wire.Kind.WELCOME, 0, wire.HELLO.pack(wire.VERSION, 0))
            agent.send(wire.Kind.SLAB, 0, b"", [slab])
            known, merged = os.fstat(slab).st_ino, 0
            for _ in range(400):
                firsts = [chance.randrange(PAGES - 8) for _ in range(20)]
                runs = [
                    (base + first * PAGE_SIZE, known, first, 8) for first in firsts for _ in "ab"
                ]
                agent.send(wire.Kind.MERGE, 2, plan(runs))
                agent.until(wire.Kind.MERGED)
                merged = max(merged, member.ask("summary")["slabbed_pages"])
        os.close(slab)
        assert merged > 0 or lacks_uffd(), "no plan was good enough to be carried out"
        assert member.ask("written")["turns"] > 0
        assert member.ask("check") == {"wrong": 0}
