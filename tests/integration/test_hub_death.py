"""The hub dies at any point, again and again: its clients go on, and the next hub takes over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child, ask_all
from pagemerge.hub.reach import fetch_status
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.commands import PAGEMERGE
from tests.support.hubs import PATIENCE, Hub, asked, ended, ends_at_last, until
from tests.support.stranger import Stranger
from tests.support.terminals import terminal

PAGES = 2048
DEATHS = 6


def merged(member: Child, pages: int = PAGES) -> bool:
    return bool(member.ask("slabbed")["slabbed"] >= pages)


def has_written(writer: Child, turns: int) -> bool:
    return bool(writer.ask("written")["turns"] > turns)


def test_killed_again_and_again_under_load(victim: Spawn, hub_socket: Path) -> None:
    """Writers write all the time; each new hub goes on where the last one was torn away."""
    with ends_at_last(hub_socket):
        writers = [victim("member") for _ in "ab"]
        readers = [victim("member") for _ in "ab"]
        ask_all(writers, "fill", pages=256, seed=1)
        ask_all(readers, "fill", pages=PAGES, seed=2)
        ask_all(writers, "scribble")
        ask_all(readers, "intern")
        hubs = set()
        for death in range(DEATHS):

            def is_up(death: int = death) -> bool:
                status = asked(hub_socket)
                return (
                    status is not None
                    and status.hub_pid not in hubs
                    and len(status.clients) == 4
                    # What one reader had merged by a hub that died, and the other by the next one
                    # before it was handed what the first one has, is kept twice.
                    and status.pages_sharing >= PAGES - 64 * death
                )

            until(is_up, "take over and adopt what its clients map")
            status = fetch_status(hub_socket)
            hubs.add(status.hub_pid)
            for number, reader in enumerate(readers):
                # While it dies one of them has just asked for something to be merged.
                reader.ask("write", first=64 * death, pages=64, seed=100 + death)
                if number == death % 2:
                    reader.question("intern")
            turns = [writer.ask("written")["turns"] for writer in writers]
            os.kill(status.hub_pid, signal.SIGKILL)
            readers[death % 2].answer()  # by the next hub, which the agents have started
            # A user without a barrier is not merged in the background: the other asks, too.
            readers[1 - death % 2].ask("intern")
            for writer, before in zip(writers, turns, strict=True):
                until(partial(has_written, writer, before), "let them write")
        assert len(hubs) == DEATHS
        ask_all(readers, "intern")
        for member in readers:
            assert merged(member)
        assert ask_all(readers + writers, "check") == [{"wrong": 0}] * 4


def test_a_new_hub_adopts_what_is_merged(victim: Spawn, hub_socket: Path) -> None:
    with ends_at_last(hub_socket):
        members = [victim("member") for _ in "abc"]
        for member in members:
            member.ask("copy", pages=PAGES, seed=3)
        before = fetch_status(hub_socket)
        assert (before.pages_shared, before.pages_sharing) == (PAGES, 2 * PAGES)
        frames = [frames_of(member) for member in members]
        os.kill(before.hub_pid, signal.SIGKILL)

        def is_adopted() -> bool:
            now = asked(hub_socket)
            return now is not None and now.pages_sharing == before.pages_sharing

        until(is_adopted, "adopt the slabs")
        now = fetch_status(hub_socket)
        assert now.hub_pid != before.hub_pid
        assert now.pages_shared == before.pages_shared
        assert now.store_bytes == before.store_bytes
        # Not a page was copied or separated: the same page frames as before.
        assert [frames_of(member) for member in members] == frames
        # And the adopted slabs serve whoever comes now.
        late = victim("member")
        late.ask("copy", pages=PAGES, seed=3)
        assert fetch_status(hub_socket).store_bytes == before.store_bytes
        assert frames_of(late) == frames[0]
        assert ask_all([*members, late], "check") == [{"wrong": 0}] * 4


def frames_of(member: Child) -> str:
    """A digest of the page frames of a member's memory; of the mapped bits only without root."""
    code = """
import hashlib
int(member.memory[:, 0].sum())
with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
    pagemap.seek(member.memory.ctypes.data // 4096 * 8)
    entries = np.frombuffer(pagemap.read(len(member.memory) * 8), np.uint64)
kept = entries & np.uint64((1 << 55) - 1 | 1 << 61 | 1 << 63)
answer = dict(digest=hashlib.sha256(kept.tobytes()).hexdigest())
"""
    digest: str = member.ask("call", code=code)["digest"]
    return digest


def test_a_hub_that_stops_answering(victim: Spawn, hub_socket: Path) -> None:
    """SIGSTOP: whoever asks for something gets an error in time, and its data stays right."""
    with Hub(hub_socket) as hub:
        member = victim("member", env=hub.env)
        member.ask("fill", pages=64, seed=4)
        member.ask("intern")
        os.kill(hub.pid, signal.SIGSTOP)
        try:
            member.ask("write", first=0, pages=64, seed=5)
            with pytest.raises(Exception, match="HubError"):
                member.ask("intern")
            assert member.ask("check") == {"wrong": 0}
        finally:
            os.kill(hub.pid, signal.SIGCONT)
        member.ask("intern")
        assert member.ask("check") == {"wrong": 0}


def test_a_second_hub_refuses_clearly(hub_socket: Path) -> None:
    with Hub(hub_socket) as hub:
        argv = [sys.executable, "-m", "pagemerge", "daemon", "--socket", str(hub_socket)]
        second = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert second.returncode == 1
        assert f"a hub is running at {hub_socket} already" in second.stderr
        assert "Traceback" not in second.stderr
        assert hub.status().hub_pid == hub.pid


def test_a_hub_that_is_told_to_end(hub_socket: Path) -> None:
    """SIGTERM with clients there, whatever the hub is about to do: it ends by itself, and soon."""
    for round_ in range(12):
        with Hub(hub_socket) as hub, Stranger(hub_socket) as client:
            client.hello()
            if round_ % 2:
                client.regions()
            hub.process.terminate()
            assert hub.process.wait(PATIENCE) == 0
            assert not hub_socket.exists()


def test_a_closed_terminal_leaves_the_hub_running(victim: Spawn, hub_socket: Path) -> None:
    argv = [*PAGEMERGE, "daemon", "--socket", str(hub_socket)]
    with terminal(argv) as opened:
        until(lambda: asked(hub_socket), "answer")
        opened.close()
        member = victim("member", env={"PAGEMERGE_SOCKET": str(hub_socket)})
        member.ask("copy", pages=PAGES, seed=1)
        until(lambda: merged(member), "merge for a client that comes later")
        assert opened.process.poll() is None
        opened.process.terminate()
        assert opened.process.wait(PATIENCE) == 0


def test_many_clients_at_once_start_one_hub(victim: Spawn, hub_socket: Path) -> None:
    with ends_at_last(hub_socket):
        members = [victim("member") for _ in range(5)]
        for member in members:
            member.question("copy", pages=64, seed=6)
        for member in members:
            member.answer()
        status = fetch_status(hub_socket)
        assert len(status.clients) == 5
        assert status.store_bytes == 64 * PAGE_SIZE
        assert {it.ask("summary")["hub_pid"] for it in members} == {status.hub_pid}


def test_the_hub_ends_with_its_last_client(victim: Spawn, hub_socket: Path) -> None:
    with ends_at_last(hub_socket):
        members = [victim("member") for _ in "ab"]
        for member in members:
            member.ask("copy", pages=64, seed=7)
        hub = fetch_status(hub_socket).hub_pid
        handle = os.pidfd_open(hub)
        members[0].close()
        assert merged(members[1], 64)
        assert not ended(handle)
        members[1].process.kill()
        until(lambda: ended(handle), "end")
        os.close(handle)
        assert not hub_socket.exists()
        until(lambda: not Path(f"/proc/{hub}").exists(), "leave the process table")
