"""What the API can change, as an interface, and what it changes where no governor runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import msgspec

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux.ksm import Ksm, locked
from pagemerge.service.api import child
from pagemerge.service.api.calls import Marked
from pagemerge.service.api.moments import in_thread


class Control(Protocol):
    """Changes to the engines. Each method raises ``PagemergeError`` if it can change nothing.

    The API calls no two of these methods at once.
    """

    async def attach(
        self, words: Sequence[str], *, select: bool, across_users: bool, dry_run: bool
    ) -> list[Marked]:
        """Let ksmd merge the processes that ``words`` name (pids or names)."""

    async def detach(self, words: Sequence[str], *, dry_run: bool) -> list[Marked]:
        """Undo ``attach``, and separate what is merged."""

    async def pause(self) -> bool:
        """Have ksmd merge nothing more; false if it merges nothing already."""

    async def resume(self) -> bool:
        """Have ksmd merge again; false if it does so already."""


class KernelControl:
    """Changes kernel KSM directly. A service that runs a governor pauses the governor instead."""

    def __init__(self, ksm: Ksm | None = None) -> None:
        self._ksm = ksm or Ksm()

    async def attach(
        self, words: Sequence[str], *, select: bool, across_users: bool, dry_run: bool
    ) -> list[Marked]:
        """Do what ``pagemerge attach`` does, in a process of its own."""
        return await _marked(
            "attach", words, select=select, across_users=across_users, dry_run=dry_run
        )

    async def detach(self, words: Sequence[str], *, dry_run: bool) -> list[Marked]:
        """Do what ``pagemerge detach`` does, in a process of its own."""
        return await _marked("detach", words, dry_run=dry_run)

    async def pause(self) -> bool:
        """Set ksmd's knob ``run`` to 0."""
        return self._set(0)

    async def resume(self) -> bool:
        """Set ksmd's knob ``run`` to 1."""
        return self._set(1)

    def _set(self, run: int) -> bool:
        """Set ``run``, unless it has that value. Raises ``PagemergeError`` if a program drives
        ksmd, because that program would set it again."""
        if reason := self._ksm.lack():
            raise Unsupported(reason)
        driver = self._ksm.driver()
        if driver is not None and driver != os.getpid():
            raise PagemergeError(
                f"process {driver} drives ksmd, and would undo this: ask the service that this "
                "process belongs to, or end it first",
                pid=driver,
            )
        with locked(self._ksm.root):
            if self._ksm.knobs().run == run:
                return False
            self._ksm.write(run=run)
        return True


async def _marked(what: str, words: Sequence[str], **options: bool) -> list[Marked]:
    """Attach or detach in a child, which may not be killed: a process that is stopped and made to
    ask must not be left in the middle."""
    request = {"what": what, "words": list(words), **options}
    done = await in_thread(lambda: child.run_to_its_end("pagemerge.service.api.marking", request))
    return msgspec.json.decode(done, type=list[Marked])
