"""A hub of root serves several users: each shares with itself alone, and sees itself alone."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pagemerge.demo.dialog import Child
from pagemerge.model import PAGE_SIZE
from tests.conftest import Spawn
from tests.support.bystanders import merged
from tests.support.commands import NOBODY
from tests.support.frames import frames
from tests.support.hubs import Hub

pytestmark = pytest.mark.requires("root")
PAGES = 1024
ANOTHER = NOBODY - 1
STATS = """
status = pagemerge.stats()
answer = dict(pids=[it.pid for it in status.clients], shared=status.pages_shared,
              sharing=status.pages_sharing, store=status.store_bytes)
"""


@pytest.fixture
def hub(hub: Hub) -> Hub:
    """It can be reached by everybody."""
    hub.socket.parent.chmod(0o711)
    return hub


@pytest.fixture
def users(hub: Hub, victim: Spawn) -> dict[int, list[Child]]:
    """Two processes each of root and two others, all with the same contents, merged."""
    found = {
        0: [victim("member", env=hub.env) for _ in "ab"],
        NOBODY: [victim("member", str(NOBODY), env=hub.env) for _ in "ab"],
        ANOTHER: [victim("member", str(ANOTHER), env=hub.env) for _ in "ab"],
    }
    for members in found.values():
        for member in members:
            member.ask("copy", pages=PAGES, seed=1)
            hub.until(partial(merged, member), "merge it")
    return found


def test_users_share_with_themselves_alone(hub: Hub, users: dict[int, list[Child]]) -> None:
    of_user = {}
    for uid, (one, other) in users.items():
        of_user[uid] = frames(one)
        assert len(of_user[uid]) == PAGES
        assert frames(other) == of_user[uid]
    assert len(set().union(*of_user.values())) == 3 * PAGES, "a frame of two users"
    for members in users.values():
        members[0].ask("write", first=0, pages=10, seed=9)
    assert all(it.ask("check") == {"wrong": 0} for both in users.values() for it in both)


def test_each_user_sees_its_own(hub: Hub, users: dict[int, list[Child]]) -> None:
    for uid in (NOBODY, ANOTHER):
        seen = users[uid][0].ask("call", code=STATS)
        assert set(seen["pids"]) == {it.pid for it in users[uid]}
        assert (seen["shared"], seen["sharing"]) == (PAGES, PAGES)
        assert seen["store"] == PAGES * PAGE_SIZE
    argv = [sys.executable, "-m", "pagemerge", "status", "--json", "--socket", str(hub.socket)]
    of_root = json.loads(subprocess.check_output(argv))
    assert len(of_root["clients"]) == 6
    assert {it["domain"].split(",")[0] for it in of_root["clients"]} == {
        f"uid {uid}" for uid in users
    }
    assert of_root["store_bytes"] == 3 * PAGES * PAGE_SIZE


def test_a_hub_of_one_user_serves_no_other(hub_socket: Path, victim: Spawn) -> None:
    """Nor does an agent join the hub of a user who is neither its own nor root."""
    folder = hub_socket.parent
    folder.chmod(0o777)
    server = victim("member", str(ANOTHER))  # stands for a hub: it listens at that path
    code = f"""
import socket
member.server = socket.socket(socket.AF_UNIX)
member.server.bind({str(hub_socket)!r})
os.chmod({str(hub_socket)!r}, 0o666)
member.server.listen()
"""
    server.ask("call", code=code)
    env = {"PAGEMERGE_SOCKET": str(hub_socket), "PAGEMERGE_AUTOSTART": "0"}
    member = victim("member", str(NOBODY), env=env)
    member.ask("fill", pages=4, seed=1)
    member.question("intern")
    with pytest.raises(Exception, match="belongs to another user"):
        member.answer()
    code = "peer, _ = member.server.accept(); answer = dict(said=len(peer.recv(100)))"
    assert server.ask("call", code=code) == {"said": 0}
    assert member.ask("check") == {"wrong": 0}
