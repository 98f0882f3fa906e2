"""All exceptions that pagemerge raises on purpose.

Each exception carries the ``pid``, ``address`` or ``path`` that it is about, if that is known, and
its message names the cause and the cure. Only the command line's ``main`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

TYPE_CHECKING = False  # not from typing, for `pagemerge --help`: see pagemerge.cli
if TYPE_CHECKING:
    from pathlib import Path


class PagemergeError(Exception):
    """The base class of all errors: the work failed (exit status 1)."""

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
    """The process does not exist, or has ended in the meantime."""


class AccessDenied(PagemergeError, PermissionError):
    """The kernel refused: the process belongs to another user, or a right is missing."""


class OutOfMemory(PagemergeError, MemoryError):
    """The kernel has no memory left for this process, or no room for more mappings."""


class Unsupported(PagemergeError):
    """This host cannot do the work (exit status 77); the message says what would have to change."""

    exit_status = 77


class HubError(PagemergeError):
    """The hub cannot be reached, went away, or refused."""


class ServiceError(PagemergeError):
    """The service cannot be reached, went away, or refused."""


class ProtocolError(HubError):
    """The other side of a connection sent something that breaks the protocol."""


@contextmanager
def about_process(pid: int, path: Path | str) -> Iterator[None]:
    """Turn the kernel's refusal of ``path`` into an error that names process ``pid``."""
    try:
        yield
    except OSError as error:
        raise of_process(error, pid, path) from None


def of_process(error: OSError, pid: int, path: Path | str) -> PagemergeError:
    """Return our error for the kernel's ``error`` about the file ``path`` of process ``pid``."""
    if isinstance(error, FileNotFoundError | ProcessLookupError):
        return NoSuchProcess(f"there is no process {pid}", pid=pid, path=str(path))
    if isinstance(error, PermissionError):
        return AccessDenied(
            f"process {pid} belongs to another user: to read {path}, run as that user or with "
            "CAP_SYS_PTRACE",
            pid=pid,
            path=str(path),
        )
    return PagemergeError(f"cannot read {path}: {error.strerror}", pid=pid, path=str(path))


def malformed(pid: int, path: Path | str) -> PagemergeError:
    """Return the error to raise if ``path`` does not have the format of proc(5)."""
    return PagemergeError(
        f"{path} is not as proc(5) describes it: is /proc a mount of the kernel's procfs?",
        pid=pid,
        path=str(path),
    )
