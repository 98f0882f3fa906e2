"""What the processes of a user do not read is bounded, all of their connections together."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

from pagemerge.hub.admission import MOST_UNREAD, Account
from pagemerge.hub.link import MOST_WAITING, Link

FRAME = 1 << 20


def test_who_left_most_unread_has_to_go() -> None:
    asyncio.run(leave_unread())


async def leave_unread() -> None:
    account, ends = Account(1000), list[str]()
    with ExitStack() as stack:
        for number in range(4):
            ours, theirs = map(stack.enter_context, socket.socketpair())
            ours.setblocking(False)
            link = Link(
                ours,
                lambda *_: None,
                lambda why, number=number: ends.append(f"{number}: {why}"),  # type: ignore[misc]
                leaves_unread=account.leaves_unread,
            )
            account.links.add(link)
            stack.callback(link.close, "over")
            stack.callback(theirs.close)
            while not ends and link.unread + 2 * FRAME < MOST_WAITING - number * FRAME:
                link.send(2, body=bytes(FRAME))
                await asyncio.sleep(0)
            assert account.unread == sum(it.unread for it in account.links) <= MOST_UNREAD + FRAME
        assert ends == ["0: its user's processes do not read what they are sent"]
        assert account.unread < MOST_UNREAD
