"""Kernel KSM: its knobs, its counters, and its figures for one process.

Sources: Documentation/admin-guide/mm/ksm.rst, mm/ksm.c and fs/proc/base.c of Linux. Every reader
takes the root of the file system it reads, so that a folder can stand in for the kernel. A value
that an older kernel does not have is ``None``, not an error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.linux import process as linux
from pagemerge.linux.aside import readers
from pagemerge.linux.driver import driver, only_one
from pagemerge.linux.knobs import NAMES, Knobs, Value, checked, restoring
from pagemerge.linux.process import PROC
from pagemerge.linux.smaps import sums
from pagemerge.linux.text import decoded
from pagemerge.linux.values import chosen, contents, number, pairs


@dataclass(frozen=True, slots=True)
class KsmCounters:
    """The counters of kernel KSM, for the whole host; in pages unless the name says otherwise.

    A counter is None if this kernel has no such file.
    """

    full_scans: int | None = None
    """Completed scans of all mergeable memory."""
    pages_scanned: int | None = None
    """Number of times that ksmd has looked at a page, since the host started."""
    pages_shared: int | None = None
    """Stable pages in use."""
    pages_sharing: int | None = None
    """Mappings of stable pages beyond the first of each."""
    pages_unshared: int | None = None
    """Pages that ksmd has looked at and that are unique."""
    pages_volatile: int | None = None
    """Pages that changed between two looks of ksmd."""
    pages_skipped: int | None = None
    """Looks at a page that smart_scan has saved, since the host started."""
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
    """Figures of kernel KSM for one process; None if this kernel does not provide one."""

    rmap_items: int | None = None
    """Pages that ksmd keeps a record of (64 bytes each)."""
    zero_pages: int | None = None
    """Pages that ksmd mapped to the kernel's page of zeros."""
    merging_pages: int | None = None
    """Pages that map a stable page."""
    process_profit_bytes: int | None = None
    """Bytes saved, less ksmd's records; may be negative."""
    merge_any: bool | None = None
    """All memory of the process is mergeable (PR_SET_MEMORY_MERGE)."""
    mergeable: bool | None = None
    """Some memory of the process is mergeable (MADV_MERGEABLE or PR_SET_MEMORY_MERGE)."""


class Ksm:
    """Typed access to the files of kernel KSM, which the whole host shares: see ``locked``."""

    def __init__(self, root: Path = ROOT, proc: Path = PROC) -> None:
        self.root = root
        self.proc = proc
        self._ksmd: int | None = None

    def why_not(self) -> str | None:
        """Say why this process cannot drive kernel KSM, the cure, and the alternative.

        Returns None if it can.
        """
        return None if (lack := self.lack()) is None else f"{lack}; {INSTEAD}"

    def lack(self) -> str | None:
        """Say why this process cannot drive kernel KSM, and the cure; None if it can."""
        run = self.root / "run"
        if not run.exists():
            return (
                f"this Linux has no KSM ({self.root} does not exist): use a kernel that has "
                "CONFIG_KSM"
            )
        if os.statvfs(self.root).f_flag & os.ST_RDONLY:
            return (
                f"{self.root} is read-only here, as in a container: drive kernel KSM from the "
                "host, or mount the host's own folder into the container, writable, and name the "
                "place with `pagemerge daemon --host-root`"
            )
        if not os.access(run, os.W_OK, effective_ids=True):
            who = "this root is not root of the host" if os.geteuid() == 0 else "it needs root"
            return f"{run} is not writable: {who}"
        return None

    def knobs(self) -> Knobs:
        """Read all knobs."""
        found: dict[str, Any] = {name: self._number(name) for name in NAMES}
        found["advisor_mode"] = self._text("advisor_mode")
        if found["run"] is not None:
            # The kernel sets another bit while memory goes offline (KSM_RUN_OFFLINE); it is not a
            # state of ksmd.
            found["run"] &= 3
        return Knobs(**found)

    def counters(self) -> KsmCounters:
        """Read all counters."""
        names = (field.name for field in fields(KsmCounters))
        return KsmCounters(**{name: self._number(name.removesuffix("_bytes")) for name in names})

    def write(self, **changes: Value) -> None:
        """Set all of the given knobs, or none of them.

        All values are checked first. If one write fails, the knobs get their old values back. A
        knob that has its value already is not written. Raises ``UsageError`` with the rule for a
        value that the kernel would refuse, ``Unsupported`` if there is no KSM, if this process may
        not set it, or if it has no such knob, and ``PagemergeError`` if the kernel refuses a write
        in spite of the checks.
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
        """Set every knob to its value in ``saved`` (an earlier ``knobs()``); undoes no merging.

        If one knob cannot be restored, the others still are. Then raises ``PagemergeError`` that
        names those that could not be restored.
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
        """Read the processor time that ksmd has used, in seconds; None if ksmd is not visible."""
        if self._ksmd is None:
            self._ksmd = self._find_ksmd()
        if self._ksmd is None:
            return None
        try:
            return linux.stat(self._ksmd, self.proc).cpu_seconds
        except PagemergeError:
            return None

    def driver(self) -> int | None:
        """Find the pid of the process that holds the lock (see ``locked``).

        Returns None if the kernel shows no such process. Needs no rights.
        """
        return driver(self.root, self.proc)

    def _set(self, name: str, value: Value) -> None:
        """Write one knob, unless it has that value already.

        The kernel refuses any write to some knobs while pages are shared.
        """
        path = self.root / name
        if self._text(name) == str(value):
            return
        try:
            path.write_text(str(value))
        except OSError as error:
            raise PagemergeError(
                f"the kernel does not take {name}={value} (now {self._text(name)}): "
                f"{error.strerror}; see {path} and `dmesg`",
                path=str(path),
            ) from error

    def _text(self, name: str) -> str | None:
        """Read the text of a file; of a list of choices, the one in brackets."""
        data = contents(self.root / name)
        return None if data is None else chosen(data) or decoded(data.strip())

    def _number(self, name: str) -> int | None:
        return number(contents(self.root / name))

    def _find_ksmd(self) -> int | None:
        """Find the pid of the kernel thread ksmd; None in a container, which does not see it."""
        kthreadd = 2
        with contextlib.suppress(OSError):
            for pid in linux.pids(self.proc):
                with contextlib.suppress(PagemergeError):
                    if linux.name(pid, self.proc) != "ksmd":
                        continue
                    found = readers.call(pid, linux.stat, pid, self.proc)
                    # Any program may name itself ksmd; only kthreadd is the parent of kernel
                    # threads.
                    if found.parent == kthreadd:
                        return pid
        return None


@contextlib.contextmanager
def locked(root: Path = ROOT, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Drive kernel KSM inside the context, as the only program (``driver.only_one``).

    If another process drives it, this calls ``waiting`` with a line that names the process, and
    then waits. Without ``waiting`` it raises ``PagemergeError`` instead, and so it does if the lock
    cannot be had. The kernel releases the lock when the process ends.
    """
    if not root.exists():
        raise Unsupported(str(Ksm(root).why_not()), path=str(root))
    with only_one(root, waiting):
        yield


def process_ksm(pid: int, proc: Path = PROC) -> ProcessKsm:
    """Read the figures of kernel KSM for process ``pid``; cheap, as it walks no page tables.

    They come from ``ksm_stat`` (Linux 6.1) and ``ksm_merging_pages`` (5.19). Raises
    ``NoSuchProcess``, or ``AccessDenied`` for a process of another user.
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
    """May ksmd merge memory of process ``pid``? False if it has ended or belongs to another user.

    Kernels before 6.18 do not say whether a process has marked memory. For those, the answer is
    true if all its memory is mergeable, or if ksmd has looked at some of it already.
    """
    try:
        found = process_ksm(pid, proc)
    except PagemergeError:
        return False
    if found.mergeable is None:
        return bool(found.merge_any or found.rmap_items)
    return found.mergeable


def mergeable(proc: Path = PROC) -> list[int]:
    """List the processes of this host that ``is_mergeable``, ascending by pid."""
    pids = linux.pids(proc)
    told = readers.quick(is_mergeable, pids, [(pid, proc) for pid in pids])
    return [pid for pid, is_so in zip(pids, told, strict=True) if is_so is True]


def ksm_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Read how many bytes of process ``pid`` map stable pages, each counted in full.

    The source is the KSM line of smaps_rollup. The kernel walks all page tables of the process
    under its mm lock: call this once, never poll. None before Linux 6.7. Raises ``NoSuchProcess``
    or ``AccessDenied``.
    """
    return sums(pid, (b"KSM",), proc).get(b"KSM")


def cow_ksm(proc: Path = PROC) -> int | None:
    """Count the pages of KSM that were copied on a write, since the host started (Linux 5.19)."""
    return number(pairs(contents(proc / "vmstat") or b"", b" ").get(b"cow_ksm"))
