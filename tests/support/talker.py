"""Programs that answer each line with one."""

from __future__ import annotations

import os
import selectors
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.hubs import PATIENCE


class Talker:
    """A victim that answers each line with one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE), "the victim does not answer"
        return self.process.stdout.readline().strip()


@contextmanager
def talking(*argv: str, env: dict[str, str]) -> Iterator[Talker]:
    """Run a victim; it is killed at the end."""
    process = subprocess.Popen(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield Talker(process)
    finally:
        process.kill()
        process.communicate()
