"""The errors of the interface, and which of our own errors become which."""

from __future__ import annotations

import re

from pagemerge.errors import (
    AccessDenied,
    NoSuchProcess,
    PagemergeError,
    Unsupported,
    UsageError,
)
from pagemerge.linux.text import plain
from pagemerge.service.api.calls import OURS, SERVICE
from pagemerge.service.api.wire import encoded, failure

_OURS = {
    AccessDenied: "NotAllowed",
    NoSuchProcess: "NoSuchProcess",
    Unsupported: "Unsupported",
    UsageError: "WrongUsage",
}


class Refusal(Exception):
    """A call that gets an error. ``name`` is the error's, with its interface."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(f"{name}: {parameters}")
        self.name, self.parameters = name, parameters

    @property
    def message(self) -> bytes:
        """The message to send."""
        return failure(self.name, encoded(self.parameters))


def of_service(name: str, **parameters: str) -> Refusal:
    """Return an error of ``org.varlink.service``."""
    return Refusal(f"{SERVICE}.{name}", **parameters)


def ours(name: str, message: str) -> Refusal:
    """Return an error of ``org.pagemerge``."""
    return Refusal(f"{OURS}.{name}", message=plain(message, 4000))


def of_error(error: PagemergeError) -> Refusal:
    """Return the error that callers get for one of our own."""
    for kind, name in _OURS.items():
        if isinstance(error, kind):
            return ours(name, str(error))
    return ours("Failed", str(error))


def of_parameters(error: Exception) -> Refusal:
    """Return the error for parameters that do not have the type that they should have.

    The standard error has the name of the parameter only; ours says what is wrong, too.
    """
    told = plain(str(error), 200)
    found = re.search(r"`\$\.(\w+)", told) or re.search(r"field `(\w+)`", told)
    name = found[1] if found else "parameters"
    return of_service("InvalidParameter", parameter=name, message=told)


def not_owner(method: str, uid: int, owner: int) -> AccessDenied:
    """Return the error for a caller that may not call ``method``."""
    who = "root" if owner == 0 else f"root and user {owner}, whose service this is,"
    cure = "call it as root (sudo)" if owner == 0 else "call it as one of them"
    return AccessDenied(
        f"{method} is for {who} only, because it concerns the processes of all users, and you are "
        f"user {uid}: {cure}"
    )
