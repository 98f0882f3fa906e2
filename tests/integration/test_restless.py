"""Pages that are written again after each merge are left alone for longer and longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pagemerge.hub.decide.restless import FREE
from tests.conftest import Spawn
from tests.support.hubs import FAST, Hub
from tests.support.members import merged

PAGES = 128
HELD = FAST.replace("longest_hold = 0\n", "")
pytestmark = pytest.mark.requires("uffd")


def test_a_page_written_after_each_merge_is_left_alone(hub_socket: Path, victim: Spawn) -> None:
    """Though it holds the same bytes whenever the hub looks. At last it is merged all the same."""
    with Hub(hub_socket, HELD) as hub:
        writer, other = (victim("member", env=hub.env) for _ in "ab")
        for member in (writer, other):
            member.ask("fill", pages=PAGES, seed=1)
        seconds = []
        for _ in range(FREE + 2):
            began = time.monotonic()
            hub.until(lambda: merged(writer, PAGES), "merge what was written")
            seconds.append(time.monotonic() - began)
            writer.ask("write", first=0, pages=PAGES, seed=1)
        assert seconds[-1] > 1.5, "it was tried again at once"
        assert merged(other, PAGES)
        assert writer.ask("check") == {"wrong": 0}
