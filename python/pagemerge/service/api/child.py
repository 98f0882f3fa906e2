"""Long work in a process of its own, so that the loop stays free: a scan, an attach, a detach.

The child gets its request on standard input, and answers by lines of JSON: any number of lines with
progress, then one line that has ``result``, or ``error`` and ``message``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec

from pagemerge import errors
from pagemerge.errors import PagemergeError
from pagemerge.linux.text import plain
from pagemerge.linux.threads import LIMITS
from pagemerge.service.api.wire import MOST_REPLY

KEPT = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "PYTHONHASHSEED")
"""The variables that a child inherits: it may be another user's, who can then read them."""


ENDING = 5.0
"""Seconds to wait for a child that was killed."""


class Said(msgspec.Struct, frozen=True):
    """A line of a child."""

    done: int = 0
    total: int = 0
    """Progress, in pages."""
    result: msgspec.Raw = msgspec.Raw(b"")
    """Empty in lines with progress."""
    error: str = ""
    """The name of a class of ``errors``."""
    message: str = ""


_lines = msgspec.json.Decoder(Said)


def command(module: str) -> list[str]:
    """Return the command that runs one of our modules."""
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """Return the variables of a child."""
    return {name: os.environ[name] for name in KEPT if name in os.environ}


async def run(
    module: str, request: Any, longest: float | None = None
) -> AsyncGenerator[Said, None]:
    """Run a module, and yield what it says; the last line has a result.

    Raises the error that it tells, and ``PagemergeError`` if it takes longer than ``longest``
    seconds. The child is killed then, and when the caller stops to listen.
    """
    until = None if longest is None else asyncio.get_running_loop().time() + longest
    with _explained():
        process = await asyncio.create_subprocess_exec(
            *command(module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            start_new_session=True,
            limit=MOST_REPLY,
        )
    assert process.stdin and process.stdout
    try:
        with contextlib.suppress(ConnectionError):
            process.stdin.write(json.dumps(request).encode())
            async with asyncio.timeout_at(until):
                await process.stdin.drain()
            process.stdin.close()
        while True:
            async with asyncio.timeout_at(until):
                line = await _line(process.stdout)
            said = checked(line, module)
            yield said
            if bytes(said.result):
                return
    except TimeoutError:
        raise PagemergeError(
            f"this takes longer than {longest:g} s, and was ended: ask for less"
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        # A user can have its child wait in the kernel for something that never comes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ENDING):
                await process.wait()


def run_to_its_end(module: str, request: Any) -> bytes:
    """Run a module that must not be killed halfway, and return its result. Blocks.

    The child goes on if our process ends. Raises the error that it tells.
    """
    with _explained():
        child = subprocess.Popen(
            command(module),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
    with child as process:
        output, _ = process.communicate(json.dumps(request).encode())
    result = bytes(checked(output, module).result)
    if not result:
        raise PagemergeError(f"{module}, which does this work, has failed: it told no result")
    return result


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn the error for a child that cannot be started into ours."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # asyncio of Python 3.11 waits for it in a thread
        if isinstance(error, OSError) and error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise PagemergeError(f"{sys.executable} cannot be run: {error.strerror}") from None
        raise PagemergeError(f"no process can be started for this: {LIMITS}") from None


def checked(line: bytes, module: str) -> Said:
    """Decode a line of a child. Raises the error that it tells."""
    try:
        said = _lines.decode(line)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        why = plain(str(error), 200) if line else "it ended and said nothing"
        raise PagemergeError(f"{module}, which does this work, has failed: {why}") from None
    if said.error:
        raise _error(said)
    return said


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise PagemergeError(
            f"the result has more than {MOST_REPLY:,} bytes: ask for less"
        ) from None


def _error(said: Said) -> PagemergeError:
    kind = getattr(errors, said.error, PagemergeError)
    known = isinstance(kind, type) and issubclass(kind, PagemergeError)
    return (kind if known else PagemergeError)(plain(said.message, 4000))


def tell(**said: Any) -> None:
    """In the child: say one line."""
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
