"""Borrows the knobs of ksmd: each comes back as it was, also after SIGKILL.

While a governor runs, a note in /run remembers the knobs from before and the values that the
governor writes. If the governor is killed, the next governor, or the daemon that supervises it,
reads the note. It puts back only knobs that still have a value of the killed governor: a knob with
another value was changed by the administrator since.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import msgspec

from pagemerge.errors import PagemergeError
from pagemerge.linux.knobs import Knobs, Value
from pagemerge.linux.ksm import Ksm, locked

log = logging.getLogger("pagemerge.governor")

NOTE = Path("/run/pagemerge/knobs.json")
"""Only root can write it, because only root runs a governor."""


def note_below(root: Path | None) -> Path:
    """Return where the note lies if the host's file system is at ``root``; None: at ``/``."""
    return NOTE if root is None else root / NOTE.relative_to("/")


class Note(msgspec.Struct):
    """What has to be known to put the knobs back."""

    before: Knobs
    """The knobs before the first governor wrote any."""
    written: dict[str, list[Value]] = msgspec.field(default_factory=dict)
    """Knob -> its value if a governor wrote it, and the value that the governor writes next: a
    governor may be killed before the write and after it."""

    def restored(self, now: Knobs) -> Knobs:
        """Return the knobs to put back, if they are ``now`` as a killed governor left them."""
        ours = {
            name: getattr(self.before, name)
            for name, values in self.written.items()
            if getattr(now, name, None) in values
        }
        return replace(now, **ours)


@dataclass(slots=True)
class Loan:
    """The knobs while they are borrowed, and the note about them."""

    ksm: Ksm
    note: Path
    before: Knobs
    _written: dict[str, list[Value]] = field(default_factory=dict)

    def announce(self, changes: Mapping[str, Value]) -> None:
        """Note values before they are written. Raises ``PagemergeError`` as ``save``."""
        now, written = self.ksm.knobs(), dict(self._written)
        for name, value in changes.items():
            old = getattr(now, name)
            kept = [old] if old in written.get(name, ()) else []
            written[name] = [*kept, value]
        self._save(written)

    def save(self) -> None:
        """Write the note. Another process sees the old note or the new one, whole.

        Raises ``PagemergeError`` if the note cannot be written, on a full disk, say; then the old
        note stays.
        """
        self._save(self._written)

    def _save(self, written: dict[str, list[Value]]) -> None:
        made = self.note.with_suffix(f".{os.getpid()}")
        try:
            self.note.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            made.write_bytes(msgspec.json.encode(Note(self.before, written)))
            made.rename(self.note)
        except OSError as error:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
            raise PagemergeError(
                f"cannot note the knobs of ksmd in {self.note}: {error.strerror}; its folder must "
                "be writable, and must have room: without a note they would not come back after a "
                "kill",
                path=str(self.note),
            ) from error
        self._written = written


@contextlib.contextmanager
def alone(ksm: Ksm) -> Iterator[None]:
    """Lock ksmd, so that no other program that respects the lock drives it. The parent process may
    hold the lock for us.

    Raises ``PagemergeError`` that names the program that drives ksmd.
    """
    if ksm.driver() == os.getppid():
        yield
        return
    with locked(ksm.root):
        yield


@contextlib.contextmanager
def borrowed(ksm: Ksm, note: Path = NOTE) -> Iterator[Loan]:
    """Put every knob back at the end, as it was before; the caller announces what it writes.

    ``note``: the file that remembers the values before. If a killed governor has left one behind,
    its values count. Raises ``PagemergeError`` if the note cannot be written; nothing is changed
    then.
    """
    before = ksm.knobs()
    if left := _read(note):
        restored = left.restored(before)
        if restored != before:
            log.warning("the last governor was killed: the knobs get their old values at the end")
        before = restored
    loan = Loan(ksm, note, before, dict(left.written) if left else {})
    loan.save()
    try:
        yield loan
    finally:
        ksm.put_back(before)
        note.unlink(missing_ok=True)


def put_back(ksm: Ksm, note: Path = NOTE) -> bool:
    """Put back what a killed governor has left; false if none has left anything.

    The caller holds the lock (``alone``). Raises ``PagemergeError`` if the kernel does not take a
    value; the note stays then.
    """
    left = _read(note)
    if left is None:
        return False
    now = ksm.knobs()
    wanted = left.restored(now)
    if wanted != now:
        ksm.put_back(wanted)
    note.unlink(missing_ok=True)
    return wanted != now


def _read(note: Path) -> Note | None:
    """Read a note; None if there is none, or none that this version writes."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        found = msgspec.json.decode(note.read_bytes(), type=Note)
        known = {it.name for it in fields(Knobs)}
        return found if known.issuperset(found.written) else None
    return None
