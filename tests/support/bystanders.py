"""Two well-behaved clients of a hub: what must go on whatever strangers do to it."""

from __future__ import annotations

from functools import partial

from pagemerge.demo.dialog import Child
from tests.conftest import Spawn
from tests.support.hubs import Hub

PAGES = 1024


class Bystanders:
    """Members with equal contents, and new ones each time they are looked at."""

    def __init__(self, hub: Hub, victim: Spawn) -> None:
        self.hub, self.seed = hub, 0
        self.members = [victim("member", env=hub.env) for _ in "ab"]

    def go_on(self) -> None:
        """New contents are merged, by the kernel's account, and every byte is right."""
        self.seed += 1
        for member in self.members:
            member.ask("fill", pages=PAGES, seed=self.seed)
        for member in self.members:
            if member.ask("summary")["barrier"]:
                self.hub.until(partial(merged, member), "merge the bystanders")
            else:
                member.ask("intern")
                # Not at once: the kernel may be moving a page frame, and shows none meanwhile.
                self.hub.until(partial(merged, member), "see it merged")
            assert member.ask("check") == {"wrong": 0}
        self.hub.assert_alive()


def merged(member: Child) -> bool:
    return bool(member.ask("slabbed")["slabbed"] == PAGES)
