"""Members of a hub that run what a test tells them to."""

from __future__ import annotations

from typing import Any

from pagemerge.demo.dialog import Child
from tests.conftest import Spawn, require
from tests.support.hubs import Hub

PAGES = 512


def member_of(hub: Hub, victim: Spawn, barrier: str = "auto", pages: int = PAGES) -> Child:
    if barrier in ("move", "write-protect"):
        require("uffd")
    member = victim("member", env={**hub.env, "PAGEMERGE_BARRIER": barrier})
    member.ask("fill", pages=pages, seed=1)
    return member


def merged(member: Child, pages: int = PAGES) -> bool:
    return bool(member.ask("slabbed")["slabbed"] >= pages)


def run(member: Child, code: str) -> dict[str, Any]:
    """Run code in the member; ``answer`` is its answer."""
    found: dict[str, object] = member.ask("call", code=code)
    return found
