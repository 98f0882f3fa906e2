"""What a client answers when the hub asks for its regions, and what the hub keeps of it."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import time
from typing import Any

from pagemerge.errors import AccessDenied, HubError
from pagemerge.hub import wire
from tests.support.ends import Ends, run

ROW = wire.REGION.itemsize
REGION = struct.pack("=5Q", 1, 1 << 30, 10, 0, 0)


def test_who_answers_and_hangs_up_in_one_breath_claims_nothing() -> None:
    async def test(ends: Ends) -> None:
        assert len(REGION) == ROW
        assert await ends.refresh(REGION) is True
        assert (ends.account.regions, ends.account.pages) == (1, 10)
        nonsense = wire.HEADER.pack(0, 77, 0)
        assert isinstance(await ends.refresh(REGION, nonsense), HubError)
        assert not ends.link.open
        assert (ends.account.regions, ends.account.pages) == (0, 0)

    run(test)


def test_a_process_that_has_ended_is_no_client_whoever_answers_for_it() -> None:
    """A parent may have kept its socket."""
    for regions in (b"", REGION):
        child = subprocess.Popen(["sleep", "60"])

        async def test(
            ends: Ends, regions: bytes = regions, child: subprocess.Popen[bytes] = child
        ) -> None:
            assert await ends.refresh(regions) is (regions != b"")
            child.kill()
            child.wait()
            assert isinstance(await ends.refresh(regions), AccessDenied)
            assert not ends.link.open

        run(test, child.pid)


def test_an_answer_that_comes_just_too_late_heals_what_its_lateness_did() -> None:
    """It arrives after the deadline, and before the task that waited has come round."""

    async def test(ends: Ends) -> None:
        said: list[Any] = []

        def late(body: bytes) -> None:
            said.append((body, ends.client.tardy))
            ends.client.tardy = False

        ends.link.pause()
        asked = asyncio.ensure_future(ends.client.ask(wire.Kind.LIST, b"", 0.1, late))
        await asyncio.sleep(0.02)
        # It has come, and the frames of this peer wait for their turn.
        ends.link._received += wire.HEADER.pack(1, wire.Kind.REGIONS, ends.question()) + b"x"
        asyncio.get_running_loop().call_later(0.075, ends.link.resume)
        time.sleep(0.12)  # a long round: both timers are due in the next one
        found = await asyncio.gather(asked, return_exceptions=True)
        assert isinstance(found[0], HubError)
        while ends.link.owes:
            await asyncio.sleep(0.01)
        assert said == [(b"x", True)]
        assert not ends.client.tardy

    run(test)
