"""Kernel KSM: its knobs, its counters, and what it does with one process.

Sources: Documentation/admin-guide/mm/ksm.rst, mm/ksm.c and fs/proc/base.c of Linux. Every reader
takes the root of the file system it reads, so that a folder can stand in for the kernel. What an
older kernel does not tell is ``None``, not an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import process as linux
from pagemerge.linux.knobs import NAMES, Knobs, Value, checked, restoring
from pagemerge.linux.maps import smaps
from pagemerge.linux.process import PROC
from pagemerge.linux.text import decoded, lines
from pagemerge.linux.values import chosen, contents, number, pairs


@dataclass(frozen=True, slots=True)
class KsmCounters:
    """The counters of kernel KSM, for the whole host; pages unless the name says otherwise.

    None where this kernel has no such file.
    """

    full_scans: int | None = None
    """Scans of all mergeable memory that were completed."""
    pages_scanned: int | None = None
    """Looks at a page, since the host started."""
    pages_shared: int | None = None
    """Stable pages in use."""
    pages_sharing: int | None = None
    """Mappings of stable pages beyond the first of each."""
    pages_unshared: int | None = None
    """Looked at, and unique."""
    pages_volatile: int | None = None
    """Changed between two looks."""
    pages_skipped: int | None = None
    """Looks that smart_scan has saved, since the host started."""
    ksm_zero_pages: int | None = None
    """Pages that map the kernel's page of zeros."""
    general_profit_bytes: int | None = None
    """Bytes saved, less ksmd's own records."""
    stable_node_chains: int | None = None
    stable_node_dups: int | None = None


ROOT = Path("/sys/kernel/mm/ksm")

INSTEAD = "the user engine needs no kernel KSM (`pagemerge run --engine user`)"


@dataclass(frozen=True, slots=True)
class ProcessKsm:
    """What kernel KSM has to do with one process; None where this kernel does not tell."""

    rmap_items: int | None = None
    """Pages that ksmd keeps a record of (64 bytes each)."""
    zero_pages: int | None = None
    """Pages that ksmd mapped to the kernel's page of zeros."""
    merging_pages: int | None = None
    """Pages that map a stable page."""
    process_profit_bytes: int | None = None
    """Bytes saved, less ksmd's records; may be negative."""
    merge_any: bool | None = None
    """All its memory is mergeable (PR_SET_MEMORY_MERGE)."""
    mergeable: bool | None = None
    """Some of its memory is (MADV_MERGEABLE, or the above)."""


class Ksm:
    """The files of kernel KSM, typed. It is one for the whole host: see ``locked``."""

    def __init__(self, root: Path = ROOT, proc: Path = PROC) -> None:
        self.root = root
        self.proc = proc
        self._ksmd: int | None = None

    def why_not(self) -> str | None:
        """Why kernel KSM cannot be driven from here, the cure, and what needs none; None if it
        can."""
        return None if (lack := self.lack()) is None else f"{lack}; {INSTEAD}"

    def lack(self) -> str | None:
        """Why kernel KSM cannot be driven from here, and the cure; None if it can."""
        run = self.root / "run"
        if not run.exists():
            return (
                f"this Linux has no KSM ({self.root} is not there): it takes a kernel with "
                "CONFIG_KSM"
            )
        if os.statvfs(self.root).f_flag & os.ST_RDONLY:
            return (
                f"{self.root} is read-only here, as in a container: drive kernel KSM from the "
                "host, or mount /sys writable into the container"
            )
        if not os.access(run, os.W_OK, effective_ids=True):
            who = "this is not root of the host" if os.geteuid() == 0 else "it needs root"
            return f"{run} is not writable: {who}"
        return None

    def knobs(self) -> Knobs:
        """All knobs as they are."""
        found: dict[str, Any] = {name: self._number(name) for name in NAMES}
        found["advisor_mode"] = self._text("advisor_mode")
        if found["run"] is not None:
            # Another bit is set while memory goes offline (KSM_RUN_OFFLINE): no state of its own.
            found["run"] &= 3
        return Knobs(**found)

    def counters(self) -> KsmCounters:
        """All counters as they are."""
        names = (field.name for field in fields(KsmCounters))
        return KsmCounters(**{name: self._number(name.removesuffix("_bytes")) for name in names})

    def write(self, **changes: Value) -> None:
        """Set knobs, all of them or none: what is checked first, and put back if one fails.

        Values that are so already are not written. Raises ``UsageError`` for what the kernel would
        refuse, with the rule; ``Unsupported`` where there is no KSM, it is not ours to set, or it
        has no such knob; ``PagemergeError`` if it refuses all the same.
        """
        if reason := self.why_not():
            raise Unsupported(reason, path=str(self.root))
        before = self.knobs()
        wanted = checked(changes, before, self._number("pages_shared"))
        try:
            for name, value in wanted.items():
                self._set(name, value)
        except BaseException as error:
            try:
                self.put_back(before)
            except PagemergeError as another:
                error.add_note(str(another))
            raise

    def put_back(self, saved: Knobs) -> None:
        """Make every knob what it is in ``saved`` (an earlier ``knobs()``); undoes no merging.

        One that cannot be put back keeps none of the others from it. Raises ``PagemergeError``
        that names them in the end.
        """
        failed = []
        for name, value in restoring(saved, self.knobs()).items():
            try:
                self._set(name, value)
            except PagemergeError as error:
                failed.append(str(error))
        if failed:
            raise PagemergeError(f"not put back: {'; '.join(failed)}", path=str(self.root))

    def ksmd_cpu_seconds(self) -> float | None:
        """Processor time that ksmd has used, in seconds; None where it is not to be seen."""
        if self._ksmd is None:
            self._ksmd = self._find_ksmd()
        if self._ksmd is None:
            return None
        try:
            return linux.stat(self._ksmd, self.proc).cpu_seconds
        except PagemergeError:
            return None

    def driver(self) -> int | None:
        """The pid of who holds the lock (see ``locked``); None if nobody does, as far as is told.

        Source: proc(5), ``/proc/locks``.
        """
        try:
            about = self.root.stat()
        except OSError:
            return None
        place = f"{os.major(about.st_dev):02x}:{os.minor(about.st_dev):02x}:{about.st_ino}"
        for line in lines(contents(self.proc / "locks") or b""):
            words = line.split()
            if b"->" not in words and b"FLOCK" in words and place.encode() in words[5:]:
                return number(words[4])
        return None

    def _set(self, name: str, value: Value) -> None:
        """Write one knob, unless it has that value: some are refused while pages are shared."""
        path = self.root / name
        if self._text(name) == str(value):
            return
        try:
            path.write_text(str(value))
        except OSError as error:
            raise PagemergeError(
                f"the kernel does not take {name}={value} (now {self._text(name)}): "
                f"{error.strerror}; {path} and `dmesg` may tell more",
                path=str(path),
            ) from error

    def _text(self, name: str) -> str | None:
        """What a file says; of a list of choices, the one in brackets."""
        data = contents(self.root / name)
        return None if data is None else chosen(data) or decoded(data.strip())

    def _number(self, name: str) -> int | None:
        return number(contents(self.root / name))

    def _find_ksmd(self) -> int | None:
        """The pid of the kernel's thread; a container does not see it."""
        kthreadd = 2
        with contextlib.suppress(OSError):
            for pid in linux.pids(self.proc):
                with contextlib.suppress(PagemergeError):
                    found = linux.stat(pid, self.proc)
                    # Any program may call itself so; only kthreadd has kernel threads.
                    if (found.name, found.parent) == ("ksmd", kthreadd):
                        return pid
        return None


@contextlib.contextmanager
def locked(root: Path = ROOT, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keep others who ask likewise from driving kernel KSM meanwhile: flock(2) on its folder.

    Where somebody else holds it, ``waiting`` is told who, and then the lock waited for. Without
    ``waiting``, ``PagemergeError`` is raised instead. The lock goes with the process. Any user can
    take it: it orders those who mean well.
    """
    try:
        lock = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Unsupported(str(Ksm(root).why_not()), path=str(root)) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = Ksm(root).driver()
            who = f"process {pid}" if pid else "another process"
            if waiting is None:
                raise PagemergeError(
                    f"{who} drives kernel KSM already: end it first", pid=pid, path=str(root)
                ) from None
            waiting(f"waiting for {who}, which drives kernel KSM ({root})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def process_ksm(pid: int, proc: Path = PROC) -> ProcessKsm:
    """What kernel KSM has to do with process ``pid``; cheap, walks no page tables.

    From ``ksm_stat`` (Linux 6.1) and ``ksm_merging_pages`` (5.19). Raises ``NoSuchProcess``, or
    ``AccessDenied`` for someone else's.
    """
    found = linux.ksm_stat(pid, proc)
    merging = found.get("ksm_merging_pages")
    if merging is None:
        merging = linux.read_newer(pid, "ksm_merging_pages", proc)

    def flag(said: bytes | None) -> bool | None:
        return None if said is None else said == b"yes"

    return ProcessKsm(
        rmap_items=number(found.get("ksm_rmap_items")),
        zero_pages=number(found.get("ksm_zero_pages")),
        merging_pages=number(merging),
        process_profit_bytes=number(found.get("ksm_process_profit")),
        merge_any=flag(found.get("ksm_merge_any")),
        mergeable=flag(found.get("ksm_mergeable")),
    )


def is_mergeable(pid: int, proc: Path = PROC) -> bool:
    """May ksmd merge memory of process ``pid``? False for one that has gone, or is someone else's.

    Kernels that do not tell (before 6.18) tell at least of memory that ksmd has been at already.
    """
    try:
        found = process_ksm(pid, proc)
    except PagemergeError:
        return False
    if found.mergeable is None:
        return bool(found.merge_any or found.rmap_items)
    return found.mergeable


def ksm_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Bytes of process ``pid`` that map stable pages, each in full: the KSM line of smaps_rollup.

    The kernel walks all page tables of the process under its mm lock: ask once, never poll. None
    before Linux 6.7. Raises ``NoSuchProcess`` or ``AccessDenied``.
    """
    return smaps(pid, (b"KSM",), proc=proc, file="smaps_rollup")[0].get(b"KSM")


def cow_ksm(proc: Path = PROC) -> int | None:
    """Pages of KSM that were copied because somebody wrote, since the host started (Linux 5.19)."""
    return number(pairs(contents(proc / "vmstat") or b"", b" ").get(b"cow_ksm"))
