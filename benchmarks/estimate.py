"""Whether an estimate is true: what ``pagemerge scan`` says, and what kernel KSM then really frees.

Real programs (lab/resting.py) load their data and come to rest. They are opted in as ``pagemerge
attach`` does it, and stopped (SIGSTOP), so that nothing changes any more. Then one look estimates,
and ksmd scans flat out until two full scans bring nothing more:

- estimate: what the survey says, in ksmd's domain: kernel KSM knows neither users nor containers,
  so all processes are together, and only pages that ksmd would look at are (``locate_for_ksmd``);
- apart: what it says by default, with trust domains apart;
- freed: what the anonymous memory of the processes (``Pss_Anon``, a frame that several of them map
  counts once) has shrunk by: the truth;
- cgroup: what the anonymous memory of their memory cgroup has shrunk by, by its own account, which
  the kernel keeps in batches; MemAvailable, in the JSON only, is moved by the rest of the host;
- KSM: ``pages_sharing`` and ``ksm_zero_pages``; tables: the same, counted in page tables.

KSM's counters are not what was freed, and the look tells by how much: they count each mapping of a
merged page, those too that shared its frame since a fork (forked); and they do not count the zero
pages that the kernel frees itself when ksmd splits a huge page (split). A content takes a frame
for each 256 mappings (max_page_sharing; limit). What one more look still finds afterwards is left.

Each is done twice: with use_zero_pages=1, as the survey counts zeros, and then, all separated
again, with 0, where zeros are a content like others. Zeros that a split has freed stay freed: with
``--small-pages`` the programs have no huge pages (PR_SET_THP_DISABLE), and ksmd merges all zeros.
Freed differs from the estimate by at most 2%, or this ends with 1. A table for people, then one
line of JSON. Ends with 77 if no program is here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lab.counted import counted
from lab.each import each
from lab.loads import Pids, until
from lab.resting import WORKLOADS
from tests.support import ksm
from tests.support.cgroup import Cgroup, limited

from pagemerge._core import ZERO
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.find import process
from pagemerge.find.look import Look, look
from pagemerge.find.sources import Source, locate_for_ksmd
from pagemerge.find.survey import summed_up, survey
from pagemerge.ksmd.attach import attach
from pagemerge.ksmd.merged import sharing_pages
from pagemerge.linux import process as linux
from pagemerge.linux.accounts import resident
from pagemerge.linux.knobs import UNMERGE
from pagemerge.linux.ksm import process_ksm
from pagemerge.linux.values import number, pairs
from pagemerge.model import PAGE_SIZE

NEAR = 0.02
"""Share by which what is freed may differ from the estimate."""
QUIET_SCANS = 2
"""Full scans without gain after which ksmd has merged what it ever will."""
FEWEST_SCANS = 4
"""Full scans at least: two to see that a page stands still, one to find its partner."""
PATIENCE = 400.0
UNLIMITED = 1 << 50
"""Bytes: the cgroup is for its accounts only."""
SMALL = [sys.executable, "-c"]
SMALL.append(
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)\n"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Goes before a command line: PR_SET_THP_DISABLE of prctl(2), which exec and fork hand down."""
RECORD_BYTES = 64
"""Of each page that ksmd has looked at: struct ksm_rmap_item of Linux mm/ksm.c."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The figures of one workload, in bytes."""

    workload: str
    use_zero_pages: int
    processes: int
    looked_at_bytes: int
    zero_bytes: int
    estimate_bytes: int
    apart_bytes: int
    freed_bytes: int
    cgroup_bytes: int | None
    """None if no memory cgroup could be made."""
    available_bytes: int
    """What has become available on the host, and the records."""
    records_bytes: int
    ksm_bytes: int
    tables_bytes: int
    forked_bytes: int
    split_bytes: int
    """Zero pages that were freed, and that KSM does not count."""
    limit_bytes: int
    left_bytes: int
    full_scans: int
    collapsed_pages: int
    """Huge pages that khugepaged has made meanwhile, of any process: they take memory again."""

    @property
    def error(self) -> float:
        """By which share the estimate is too high."""
        return self.estimate_bytes / max(self.freed_bytes, 1) - 1


@dataclass(frozen=True, slots=True)
class State:
    """What the kernel says at one moment, in bytes."""

    anonymous: int
    charged: int
    """To the cgroup, if there is one."""
    available: int
    records: int
    ksm: int
    zeros: int
    """Pages of zeros that KSM has merged, part of ``ksm``."""
    collapsed: int


def state(kernel: ksm.Ksm, pids: list[int], group: Cgroup | None) -> State:
    """Read all accounts of the processes, and of KSM."""
    anonymous = sum(resident(pid).anonymous_pss_bytes for pid in pids)
    available = number(pairs(Path("/proc/meminfo").read_bytes())[b"MemAvailable"], b"kB") or 0
    records = sum(process_ksm(pid).rmap_items or 0 for pid in pids)
    now = kernel.counters()
    zeros = now.ksm_zero_pages or 0
    return State(
        anonymous,
        group.anonymous_bytes() if group else 0,
        available * 1024,
        records * RECORD_BYTES,
        ((now.pages_sharing or 0) + zeros) * PAGE_SIZE,
        zeros * PAGE_SIZE,
        int(Path("/sys/kernel/mm/transparent_hugepage/khugepaged/pages_collapsed").read_text()),
    )


def look_at(pids: list[int]) -> Look:
    """Look at all that ksmd may merge, as one domain."""
    sources: list[Source] = [locate_for_ksmd(one) for one in process.named(map(str, pids))]
    found = look(sources)
    if failed := [f"{it.name}: {it.error}" for it in found.sources if it.error]:
        raise PagemergeError("; ".join(failed))
    return found


@contextlib.contextmanager
def frozen(pids: Pids) -> Iterator[list[int]]:
    """The processes, stopped (SIGSTOP) with all of their threads."""
    stopped = pids()
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        until(lambda: all(map(stands, stopped)), "to stop all processes")
        yield stopped
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def stands(pid: int) -> bool:
    """Do all threads of a process stand?"""
    tasks = linux.PROC / str(pid) / "task"
    return all(linux.stat(it, tasks).state == "T" for it in linux.threads(pid))


def compare(kernel: ksm.Ksm, name: str, small: bool) -> Iterator[Compared]:
    """Run one workload, estimate, and have ksmd merge it, with zero pages and then without."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pagemerge-")))
        folder.chmod(0o711)
        group = None
        with contextlib.suppress(Unsupported):
            group = stack.enter_context(limited(UNLIMITED))
        prefix = (group.prefix() if group else []) + (SMALL if small else [])
        pids = stack.enter_context(WORKLOADS[name](folder, prefix))
        for pid in pids():
            attach(pid, name, list, "prctl")
        stopped = stack.enter_context(frozen(pids))
        for use_zero_pages in (1, 0):
            yield merge(kernel, name, stopped, use_zero_pages, group)
            kernel.write("run", UNMERGE)
            kernel.write("run", ksm.STOP)
    kernel.forget()


def merge(
    kernel: ksm.Ksm, name: str, pids: list[int], use_zero_pages: int, group: Cgroup | None
) -> Compared:
    """Estimate, merge, and look again."""
    most = kernel.kernel.knobs().max_page_sharing or 256
    apart = survey(process.named(map(str, pids)))
    found, before = look_at(pids), state(kernel, pids, group)
    told = summed_up(found).totals.saveable_pages * PAGE_SIZE
    differs = counted(found.digests, found.frames, most, bool(use_zero_pages))
    scans = merge_all(kernel, use_zero_pages)
    after, tables = state(kernel, pids, group), sharing_pages(pids)
    if tables is None:
        raise Unsupported("the kernel shows no frames: it needs root and CONFIG_PROC_PAGE_MONITOR")
    left = summed_up(look_at(pids)).totals
    zeros = after.zeros - before.zeros
    zero_bytes = int((found.digests == np.uint64(ZERO)).sum()) * PAGE_SIZE
    freed = before.anonymous - after.anonymous
    records = after.records - before.records
    merged = after.ksm - before.ksm
    return Compared(
        workload=name,
        use_zero_pages=use_zero_pages,
        processes=len(pids),
        looked_at_bytes=len(found.digests) * PAGE_SIZE,
        zero_bytes=zero_bytes,
        estimate_bytes=told,
        apart_bytes=apart.totals.saveable_pages * PAGE_SIZE,
        freed_bytes=freed,
        cgroup_bytes=before.charged - after.charged if group else None,
        available_bytes=after.available - before.available + records,
        records_bytes=records,
        ksm_bytes=merged,
        tables_bytes=tables * PAGE_SIZE + zeros,
        forked_bytes=differs.forked * PAGE_SIZE,
        split_bytes=zero_bytes - zeros - left.zero_pages * PAGE_SIZE,
        limit_bytes=differs.limit * PAGE_SIZE,
        left_bytes=left.saveable_pages * PAGE_SIZE,
        full_scans=scans,
        collapsed_pages=after.collapsed - before.collapsed,
    )


def merge_all(kernel: ksm.Ksm, use_zero_pages: int) -> int:
    """Have ksmd scan flat out until that brings nothing more; returns the number of full scans."""
    first, deadline = kernel.full_scans, time.monotonic() + PATIENCE
    gained, at = -1, first
    kernel.start(**ksm.FLAT_OUT, use_zero_pages=use_zero_pages, smart_scan=0)
    try:
        while True:
            scans, now = kernel.full_scans, kernel.counters()
            saved = (now.pages_sharing or 0) + (now.ksm_zero_pages or 0)
            if saved != gained:
                gained, at = saved, scans
            if scans >= at + QUIET_SCANS + 1 and scans >= first + FEWEST_SCANS:
                return scans - first
            if time.monotonic() > deadline:
                raise PagemergeError("ksmd did not come to its end: is the host busy?")
            time.sleep(0.02)
    finally:
        kernel.write("run", ksm.STOP)


def show(results: list[Compared]) -> None:
    """The table, in MB."""
    columns = "looked_at zero apart estimate freed cgroup ksm tables forked split limit left"
    print(f"{'MB':<20}{'error':>8}" + "".join(f"{name:>10}" for name in columns.split()))
    for it in results:
        name = it.workload if it.use_zero_pages else "  use_zero_pages=0"
        figures = (getattr(it, f"{column}_bytes") for column in columns.split())
        shown = ("-" if it is None else f"{it / 1e6:.1f}" for it in figures)
        print(f"{name:<20}{it.error:+8.2%}" + "".join(f"{figure:>10}" for figure in shown))
    for it in results:
        if abs(it.error) > NEAR:
            how = f"{it.workload}, use_zero_pages={it.use_zero_pages}"
            print(f"{how}: the estimate DIFFERS from what was freed by {it.error:.1%}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--small-pages", action="store_true", help="without huge pages")
    args = parser.parse_args()
    results: list[Compared] = []
    try:
        with ksm.borrowed() as kernel:
            if kernel.before.pages_shared:
                raise Unsupported("other processes have merged memory: ours would merge with it")

            def run(name: str) -> None:
                for one in compare(kernel, name, args.small_pages):
                    print(f"{name}: {one.error:+.2%}", file=sys.stderr, flush=True)
                    results.append(one)

            lacking, failed = each(args.workloads, run)
    except PagemergeError as error:
        print(f"estimate.py: {error}", file=sys.stderr)
        return error.exit_status
    if results:
        show(results)
    print(json.dumps({"results": [asdict(it) for it in results], "lacking": lacking}))
    if failed or any(abs(it.error) > NEAR for it in results):
        return 1
    return 0 if results else Unsupported("").exit_status


if __name__ == "__main__":
    sys.exit(main())
