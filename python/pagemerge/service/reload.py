"""Reads the configuration again upon SIGHUP; if it is wrong, the old one stays in force."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from pagemerge import config
from pagemerge.config import Configuration
from pagemerge.errors import PagemergeError
from pagemerge.linux.notify import Notifier
from pagemerge.linux.text import plain

log = logging.getLogger("pagemerge.service")


class Reload:
    """The configuration in force, and how to replace it.

    ``apply`` takes a new configuration into force; the rest of the process keeps running meanwhile.
    ``quiet``: log no changes, because another process does.
    """

    def __init__(
        self,
        path: Path,
        now: Configuration,
        apply: Callable[[Configuration], None],
        *,
        quiet: bool = False,
    ) -> None:
        self.now = now
        self._path, self._apply, self._quiet = path, apply, quiet

    def __call__(self) -> bool:
        """Read the file, and apply it if it is right. True if it was applied."""
        try:
            new = config.read(self._path)
        except PagemergeError as error:
            if not self._quiet:
                log.error("nothing was reloaded, the old configuration stays in force: %s", error)
            return False
        old = self.now
        if new.service != old.service and not self._quiet:
            told = ", ".join(changes(old.service, new.service))
            log.warning("restart the daemon for [service] %s: it cannot change while running", told)
        # Compare the next file with what is in force, so that each reload says it again.
        self.now = msgspec.structs.replace(new, service=old.service)
        self._apply(self.now)
        if not self._quiet:
            log.info("reloaded %s: %s", plain(str(self._path)), _summary(old, self.now))
        return True


def told_to(notifier: Notifier, reload: Reload) -> Callable[[], None]:
    """Make a handler of SIGHUP that reloads and tells the supervising program about it."""

    def handle() -> None:
        notifier.reloading()
        reload()
        notifier.ready()

    return handle


def changes(old: msgspec.Struct, new: msgspec.Struct) -> list[str]:
    """List the keys of a table that differ, with their values: ``looks = 3 (was 2)``."""
    return [
        f"{name} = {_written(getattr(new, name))} (was {_written(getattr(old, name))})"
        for name in new.__struct_fields__
        if getattr(new, name) != getattr(old, name)
    ]


def _summary(old: Configuration, new: Configuration) -> str:
    parts = [
        f"[{name}] {change}"
        for name in ("hub", "kernel")
        for change in changes(getattr(old, name), getattr(new, name))
    ]
    if new.rule != old.rule:
        parts.append(f"{len(new.rule)} rules (was {len(old.rule)})")
    return "; ".join(parts) or "nothing has changed"


def _written(value: object) -> str:
    """Write a value as in the file."""
    if value is None:
        return "unset"
    return msgspec.json.encode(value).decode()
