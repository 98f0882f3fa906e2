"""Scans for the API of the service, as a process of its own; no verb.

The service runs ``python -m pagemerge.cli.scanner`` with a request in JSON on standard input:
``words``, the arguments of ``pagemerge scan``, and ``user``, whose rights the scan gets. It tells
its progress and the result as ``service.api.child`` describes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from pagemerge.cli.scan import Scan, figures
from pagemerge.cli.show.words import as_json
from pagemerge.errors import PagemergeError, UsageError
from pagemerge.linux.fault import told
from pagemerge.linux.oom import as_others
from pagemerge.linux.prctl import end_with_parent
from pagemerge.service.api.child import tell

EVERY = 0.25
"""Seconds between two lines of progress."""

NEEDED = (
    "pagemerge.cli.show.answer",
    "pagemerge.estimate.answer",
    "pagemerge.find.process",
    "numpy.random",
    "shutil",
    "lz4.block",
    "zstandard",
)
"""What a scan imports later on, if it is installed: the user may not be allowed to read it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main() -> None:
    """Scan as the request says."""
    request, service = json.load(sys.stdin), os.getppid()
    as_others()  # it takes more memory than the service; as another user, it could not write this
    for name in NEEDED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        if user := request["user"]:
            become(user["uid"], user["gid"], user["groups"])
        # After `become`: the kernel forgets it when the user changes.
        if not end_with_parent(service):
            raise PagemergeError("the service has ended")
        os.nice(10)  # after the service, which may be short of time
        found = scanned(request["words"])
    except PagemergeError as error:
        tell(error=type(error).__name__, message=str(error))
    except Exception as error:  # the service says so, because the child has no log
        tell(error="PagemergeError", message=f"the scan has a fault: {told(error)}")
    else:
        tell(result=found)


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Give all rights away but those of a user. Needs root."""
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def scanned(words: Sequence[str]) -> object:
    """Return what ``pagemerge scan --json`` prints, and tell the progress meanwhile."""
    parser = _Parser(prog="scan", exit_on_error=False)
    Scan.arguments(parser)
    after = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal after
        if time.monotonic() >= after:
            tell(done=done, total=total)
            after = time.monotonic() + EVERY

    arguments = parser.parse_args(words)
    progress(0, 0)  # the caller learns that it has begun, long before the first pages are done
    return json.loads(as_json(figures(arguments, progress)))


if __name__ == "__main__":
    main()
