"""Every exception that pagemerge raises on purpose.

Each carries what it is about (``pid``, ``address``, ``path``) where that is known, and its
message names the cause and the cure. Only the command line's ``main`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class PagemergeError(Exception):
    """Base of all: the work failed (exit status 1)."""

    exit_status = 1

    def __init__(
        self,
        message: str,
        *,
        pid: int | None = None,
        address: int | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.address = address
        self.path = path


class UsageError(PagemergeError, ValueError):
    """An argument or a setting is wrong (exit status 2); nothing was changed."""

    exit_status = 2


class NoSuchProcess(PagemergeError, LookupError):
    """The process does not exist, or has gone meanwhile."""


class AccessDenied(PagemergeError, PermissionError):
    """The kernel refused: someone else's process, or a right that is missing."""


class OutOfMemory(PagemergeError, MemoryError):
    """The kernel has no memory, or no room for mappings, left for us."""


class Unsupported(PagemergeError):
    """This host cannot do it (exit status 77); the message says what would have to change."""

    exit_status = 77


class HubError(PagemergeError):
    """The hub cannot be reached, went away, or refused."""


class ProtocolError(HubError):
    """The other side of a connection sent something that is not the protocol."""


@contextmanager
def about_process(pid: int, path: Path | str) -> Iterator[None]:
    """Turn the kernel's refusal of ``path`` into an error that names process ``pid``."""
    try:
        yield
    except OSError as error:
        raise of_process(error, pid, path) from None


def of_process(error: OSError, pid: int, path: Path | str) -> PagemergeError:
    """Our error for the kernel's, which was about the file ``path`` of process ``pid``."""
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return NoSuchProcess(f"there is no process {pid}", pid=pid, path=str(path))
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"process {pid} is someone else's: {path} needs its user or CAP_SYS_PTRACE",
            pid=pid,
            path=str(path),
        )
    return PagemergeError(f"cannot read {path}: {error.strerror}", pid=pid, path=str(path))


def malformed(pid: int, path: Path | str) -> PagemergeError:
    """What to raise where ``path`` is not as proc(5) describes it."""
    return PagemergeError(
        f"{path} is not as proc(5) describes it: is /proc what the kernel mounts there?",
        pid=pid,
        path=str(path),
    )
