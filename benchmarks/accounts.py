"""Whether the governor's accounts are true: what it promises, what it says it saved, what is so.

Real programs load what several of them have in common (lab/loads.py) while ``pagemerge daemon
--engine kernel`` drives ksmd; and then, when all is separated again, another governor finds them
standing still. Once it rests, its figures are compared with the kernel's:

- promised: merged then and still to be saved, when it last let ksmd run;
- saved: what it says is merged, after its work; and what it says was left;
- page tables: mappings of KSM's frames beyond the first of each, now (find/merged.py);
- pages_sharing: KSM's own counter (and ksm_zero_pages), at rest;
- ksm_stat: the sum of ksm_merging_pages of the processes, less pages_shared, and zero pages.

Then the processes are stopped and ksmd scans everything once more, so that its counter is fresh
("rescanned"): what it merges on top of it was left over. All agree within 3%, or it
ends with 1; what was promised while memory was still being loaded is only shown.
A table for people, then one line of JSON. Ends with 77 if none of the programs is here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
from lab.each import each
from lab.loads import LOADS, Pids
from tests.support import ksm
from tests.support.hubs import ALONE

from pagemerge.demo.dialog import end
from pagemerge.errors import PagemergeError, Unsupported
from pagemerge.ksmd.governor import Step
from pagemerge.ksmd.merged import sharing_pages
from pagemerge.linux.ksm import process_ksm
from pagemerge.model import PAGE_SIZE

NEAR = 0.03
"""Share by which figures may differ."""
SLACK = 1 << 20
"""Bytes by which they may differ however small they are: programs go on writing a little."""
QUIET = 8.0
"""Seconds without ksmd running after which the governor rests."""
PATIENCE = 300.0
SCANS = 2


@dataclass(frozen=True, slots=True)
class Accounts:
    """The figures of one load, in bytes."""

    load: str
    processes: int
    promised_bytes: int
    saved_bytes: int
    left_bytes: int
    page_tables_bytes: int
    pages_sharing_bytes: int
    ksm_stat_bytes: int
    rescanned_bytes: int
    words: str
    """The governor's own, the last time that it ended its work."""

    def differing(self) -> list[str]:
        """The accounts that differ from the page tables by more than they may."""
        truth = self.page_tables_bytes
        names = ["saved", "pages_sharing", "ksm_stat", "rescanned"]
        # While a program loads, what was promised may be freed again before it is merged.
        names += ["promised"] * self.load.endswith("standing")
        found = {name: getattr(self, f"{name}_bytes") for name in names}
        return [name for name, it in found.items() if abs(it - truth) > max(NEAR * truth, SLACK)]


class Governor:
    """A governor at work, with its trace and its log in a folder."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process, self.folder = process, folder

    def steps(self) -> list[Step]:
        """What it has decided so far."""
        if self.process.poll() is not None:
            raise PagemergeError(f"the governor ended: {self.log()[-2000:]}")
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "trace").read_bytes().split(b"\n")[:-1]
            return [msgspec.json.decode(line, type=Step) for line in lines]
        return []

    def log(self) -> str:
        """What it has said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def rest(self, since: float) -> list[Step]:
        """Wait until it has looked at what was there ``since`` then, and ksmd has stood a while.

        Returns what it has decided. Raises ``PagemergeError`` if it does not come to rest.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            steps = self.steps()
            looks = [it for it in steps if it.snapshot.promised_bytes is not None]
            runs = [it.snapshot.seconds for it in steps if it.snapshot.knobs.run == 1]
            quiet = time.monotonic() - max([*runs, since])
            if quiet > QUIET and looks and looks[-1].snapshot.seconds > since:
                return steps
            time.sleep(0.5)
        raise PagemergeError(f"it does not come to rest: {self.log()[-2000:]}")


@contextlib.contextmanager
def governed(folder: Path) -> Iterator[Governor]:
    """A governor at its defaults."""
    argv = [sys.executable, "-m", "pagemerge", "daemon", "--engine", "kernel", "--verbose"]
    (folder / "config.toml").write_text(ALONE)
    argv += ["--config", str(folder / "config.toml"), "--trace", str(folder / "trace")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, process_group=0)
    try:
        yield Governor(process, folder)
    finally:
        process.terminate()
        end(process, 30.0)


@contextlib.contextmanager
def frozen(pids: Pids) -> Iterator[list[int]]:
    """The processes, stopped (SIGSTOP)."""
    stopped = pids()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield stopped
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def measure(kernel: ksm.Ksm, name: str) -> Iterator[Accounts]:
    """Run one load under a governor, and then another governor on what that has loaded."""
    with tempfile.TemporaryDirectory(prefix="pagemerge-accounts-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)
        for part in ("loading", "standing", "load"):
            (folder / part).mkdir()
        with contextlib.ExitStack() as stack:
            with governed(folder / "loading") as governor:
                pids = stack.enter_context(LOADS[name](folder / "load"))
                yield account(kernel, f"{name}, loading", governor, pids)
            kernel.forget()
            with governed(folder / "standing") as governor:
                yield account(kernel, f"{name}, standing", governor, pids)
    kernel.forget()


def account(kernel: ksm.Ksm, name: str, governor: Governor, pids: Pids) -> Accounts:
    """Read all accounts once the governor rests; it is ended by that."""
    steps = governor.rest(time.monotonic())
    with frozen(pids) as running:
        words = governor.log().splitlines()
        governor.process.terminate()
        end(governor.process, 30.0)
        counted, stable = counters(kernel)
        told, tables = counted_by_process(running) - stable, sharing_pages(running)
        zeros = kernel.counters().ksm_zero_pages or 0
        rescan(kernel)
        again, _ = counters(kernel)
    looks = [it.snapshot for it in steps if it.snapshot.merged_bytes is not None]
    begun = [it.snapshot for it in steps if it.snapshot in looks and it.decision.knobs.run == 1]
    if tables is None or not begun:
        raise PagemergeError(f"{name}: nothing was merged: {words}")
    return Accounts(
        load=name,
        processes=len(running),
        promised_bytes=(begun[-1].merged_bytes or 0) + (begun[-1].promised_bytes or 0),
        saved_bytes=looks[-1].merged_bytes or 0,
        left_bytes=looks[-1].promised_bytes or 0,
        page_tables_bytes=(tables + zeros) * PAGE_SIZE,
        pages_sharing_bytes=counted,
        ksm_stat_bytes=told,
        rescanned_bytes=again,
        words=next((line[24:] for line in reversed(words) if "saved" in line), ""),
    )


def counters(kernel: ksm.Ksm) -> tuple[int, int]:
    """KSM's own counters, in bytes: what it has saved, and what that takes."""
    now = kernel.counters()
    saved = (now.pages_sharing or 0) + (now.ksm_zero_pages or 0)
    return saved * PAGE_SIZE, (now.pages_shared or 0) * PAGE_SIZE


def counted_by_process(pids: list[int]) -> int:
    """The sum of what ksm_stat tells of each, in bytes."""
    pages = 0
    for pid in pids:
        found = process_ksm(pid)
        pages += (found.merging_pages or 0) + (found.zero_pages or 0)
    return pages * PAGE_SIZE


def rescan(kernel: ksm.Ksm) -> None:
    """Have ksmd come by everywhere, on memory that stands still."""
    deadline, enough = time.monotonic() + PATIENCE, kernel.full_scans + SCANS
    kernel.start(**ksm.FLAT_OUT, use_zero_pages=1)
    while kernel.full_scans < enough:
        if time.monotonic() > deadline:
            raise PagemergeError("ksmd does not scan")
        time.sleep(0.05)
    kernel.write("run", 0)


def show(results: list[Accounts]) -> None:
    """The table, in MB, and the governor's own words."""
    columns = ("promised", "saved", "left", "page_tables", "pages_sharing", "ksm_stat", "rescanned")
    print(f"{'MB':<20}" + "".join(f"{name:>15}" for name in columns))
    for it in results:
        figures = (getattr(it, f"{name}_bytes") / 1e6 for name in columns)
        print(f"{it.load:<20}" + "".join(f"{figure:15.1f}" for figure in figures))
    for it in results:
        print(f"{it.load}: {it.words}")
        for name in it.differing():
            print(f"{it.load}: {name} DIFFERS from the page tables by more than {NEAR:.0%}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    args = parser.parse_args()
    results: list[Accounts] = []
    try:
        with ksm.borrowed() as kernel:

            def run(name: str) -> None:
                for one in measure(kernel, name):
                    print(f"{one.load}: {one.words}", file=sys.stderr, flush=True)
                    results.append(one)

            lacking, failed = each(args.loads, run)
    except PagemergeError as error:
        print(f"accounts.py: {error}", file=sys.stderr)
        return error.exit_status
    if results:
        show(results)
    print(json.dumps({"results": [asdict(it) for it in results], "lacking": lacking}))
    if failed or any(it.differing() for it in results):
        return 1
    return 0 if results else Unsupported("").exit_status


if __name__ == "__main__":
    sys.exit(main())
