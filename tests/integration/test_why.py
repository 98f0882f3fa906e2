"""Why nothing merges, told of real guests and programs; and that the cure changes the reason."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pagemerge import _core
from pagemerge.demo.dialog import Child, end
from pagemerge.errors import PagemergeError
from pagemerge.estimate.obstacles import SLOW, WAITING
from pagemerge.estimate.why import Explained, Why, why
from pagemerge.find import eligible, process
from pagemerge.find.look import look
from pagemerge.find.sources import Source, locate
from pagemerge.find.survey import summed_up
from tests.conftest import Spawn, missing
from tests.support import ksm
from tests.support.building import VICTIMS
from tests.support.commands import NOBODY

pytestmark = [pytest.mark.requires("kernel", "root"), pytest.mark.timeout(120)]

MIB = 1 << 20
PAGES, SIZE = 8192, 32 * MIB
PR_SET_MEMORY_MERGE = 67
GUEST = 64 * MIB
QEMU = ["qemu-system-x86_64", "-accel", "tcg,tb-size=16", "-nodefaults", "-display", "none"]
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def kernel() -> Iterator[ksm.Ksm]:
    """ksmd is stopped, and ours: whether it runs is a reason."""
    with ksm.borrowed() as borrowed:
        yield borrowed


def told(*pids: int) -> Why:
    """The answer of a look at these processes."""
    sources: list[Source] = [locate(it) for it in process.named(map(str, pids))]
    found = look(sources, 2)
    return why(found, summed_up(found))


def of(pid: int, *besides: int) -> Explained:
    """Of one process, which merges little."""
    return next(it for it in told(pid, *besides).processes if it.pid == pid)


def kinds(pid: int, *besides: int) -> list[str]:
    """Its reasons, most bytes first."""
    return [it.kind for it in of(pid, *besides).reasons]


def attach(pid: int) -> None:
    """What ``pagemerge attach`` does."""
    _core.inject_prctl(pid, True)


def flat_out(kernel: ksm.Ksm) -> None:
    """Let ksmd run, and look at every page each time."""
    smart = {} if kernel.kernel.knobs().smart_scan is None else {"smart_scan": 0}
    kernel.start(**ksm.FLAT_OUT, **smart)


def until_merged(pid: int, kernel: ksm.Ksm) -> None:
    """Let ksmd run until the process needs no explanation; then stop it."""
    flat_out(kernel)
    deadline = time.monotonic() + PATIENCE
    while told(pid).processes:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kernel.write("run", ksm.STOP)


def until_gone(size: int, pid: int, kernel: ksm.Ksm) -> None:
    """Let ksmd run until less than a tenth of ``size`` bytes waits for it; then stop it.

    Zeros need not count as merged then: when Linux (6.12) splits a huge page, it drops them.
    """
    flat_out(kernel)
    deadline = time.monotonic() + PATIENCE
    while (wait := waiting(pid)) > size / 10:
        assert time.monotonic() < deadline, wait
        time.sleep(0.2)  # ksmd is nice(2): on a busy host, looking keeps it from its work
    kernel.write("run", ksm.STOP)


def waiting(pid: int) -> int:
    """Bytes of a process that wait for ksmd, which runs."""
    mine = (it for one in told(pid).processes for it in one.reasons)
    return sum(it.bytes for it in mine if it.kind in (SLOW, WAITING))


# Programs


def test_not_marked(victim: Spawn) -> None:
    one = victim("reluctant")
    one.ask("fill", pages=PAGES, kinds=4)
    found = of(one.pid)
    assert found.reasons[0].kind == "not marked"
    assert found.reasons[0].bytes == pytest.approx(SIZE, rel=0.1)
    assert f"`pagemerge attach {one.pid}`" in found.reasons[0].cure
    assert found.merged_bytes == 0
    attach(one.pid)
    assert kinds(one.pid)[0] == "ksmd stopped"


def test_opted_out(victim: Spawn, kernel: ksm.Ksm) -> None:
    one = victim("reluctant")
    one.ask("fill", pages=PAGES, kinds=4)
    one.ask("prctl", option=PR_SET_MEMORY_MERGE, value=1)
    until_merged(one.pid, kernel)
    one.ask("prctl", option=PR_SET_MEMORY_MERGE, value=0)
    assert kinds(one.pid)[0] == "opted out"
    attach(one.pid)
    assert kinds(one.pid)[0] == "ksmd stopped"


def test_locked_memory_is_no_obstacle_to_ksmd(victim: Spawn, kernel: ksm.Ksm) -> None:
    one = victim("reluctant")
    one.ask("fill", pages=PAGES, kinds=4, mark=True, lock=True)
    found = of(one.pid)
    assert found.reasons[0].kind == "ksmd stopped"
    locked = next(it for it in found.reasons if it.kind == "locked")
    assert locked.bytes == pytest.approx(SIZE, rel=0.01) and "ksmd merges it" in locked.text
    until_merged(one.pid, kernel)


def test_huge_pages(victim: Spawn, kernel: ksm.Ksm) -> None:
    one = victim("reluctant")
    try:
        one.ask("fill", pages=PAGES, kinds=4, mark=True, huge=True)
    except PagemergeError as error:
        missing("kernel", f"MADV_COLLAPSE (Linux 6.1): {error}")
    kernel.start(pages_to_scan=1, sleep_millisecs=1000)
    found = of(one.pid)
    slow, huge = found.reasons[:2]
    assert (slow.kind, huge.kind) == ("ksmd slow", "huge pages")
    assert slow.text.startswith("ksmd looks at 1 pages every 1000 ms: about ")
    assert "hours" in slow.text
    assert huge.bytes == pytest.approx(SIZE, rel=0.2)
    until_merged(one.pid, kernel)


def test_a_ksmd_that_is_quick_enough_is_worth_waiting_for(victim: Spawn, kernel: ksm.Ksm) -> None:
    one = victim("reluctant")
    one.ask("fill", pages=PAGES, kinds=4, mark=True)
    kernel.start(pages_to_scan=500, sleep_millisecs=1000)
    assert kinds(one.pid)[0] == "not merged yet"


def test_confined_by_seccomp() -> None:
    run = [sys.executable, "-m", "pagemerge", "run", "--engine", "kernel", "--"]
    argv = [sys.executable, str(VICTIMS / "reluctant.py")]
    with Child(argv) as one, Child([*run, *argv]) as cured:
        for it in (one, cured):
            it.ask("fill", pages=PAGES, kinds=4)
            it.ask("confine")
        reason = of(one.pid).reasons[0]
        assert reason.kind == "cannot be attached"
        assert "seccomp" in reason.text and "`pagemerge run --engine kernel`" in reason.cure
        assert kinds(cured.pid)[0] == "ksmd stopped"


def test_no_duplicates(victim: Spawn) -> None:
    one, other = victim("reluctant"), victim("reluctant")
    one.ask("fill", pages=PAGES, seed=1)
    reason = of(one.pid).reasons[0]
    assert reason.kind == "no duplicates" and reason.bytes >= SIZE
    other.ask("fill", pages=PAGES, seed=1)
    assert kinds(one.pid, other.pid)[0] == "not marked", "the cure: look at more"


def test_alone_in_its_domain(victim: Spawn) -> None:
    one, other = victim("reluctant"), victim("reluctant", str(NOBODY))
    same = victim("reluctant")
    for it in (one, other, same):
        it.ask("fill", pages=PAGES, seed=1)
    reason = of(one.pid, other.pid).reasons[0]
    assert reason.kind == "trust domain" and "uid 0" in reason.text
    assert reason.bytes == pytest.approx(SIZE / 2, rel=0.2)
    assert kinds(one.pid, other.pid, same.pid)[0] == "not marked", "one user for both"


def test_pinned(victim: Spawn, kernel: ksm.Ksm) -> None:
    one = victim("reluctant")
    one.ask("fill", pages=PAGES, kinds=4, mark=True)
    try:
        one.ask("pin")
    except PagemergeError as error:
        missing("kernel", f"no io_uring here: {error}")
    reason = next(it for it in of(one.pid).reasons if it.kind == "pinned")
    assert reason.bytes == SIZE
    kernel.start(**ksm.FLAT_OUT)
    scans = kernel.full_scans
    deadline = time.monotonic() + PATIENCE
    while kernel.full_scans < scans + 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert of(one.pid).merged_bytes < SIZE / 8, "no engine merges it"


# Guests

Start = Callable[..., int]


@contextmanager
def guest(*words: str) -> Iterator[int]:
    """A guest of 64 MiB of zeros, which does not run; its pid."""
    argv = [*QEMU, "-S", "-m", "64M", "-mem-prealloc", "-qmp", "stdio", *words]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=-1, process_group=0) as qemu:
        assert qemu.stdin and qemu.stdout
        try:
            for asked in ("qmp_capabilities", "query-status"):
                qemu.stdin.write(json.dumps({"execute": asked}).encode() + b"\n")
            qemu.stdin.flush()
            # The last answer comes from the main loop: all memory has been touched by then.
            while line := qemu.stdout.readline():
                if "running" in json.loads(line).get("return", {}):
                    break
            else:
                _, said = qemu.communicate(timeout=5)
                raise PagemergeError(f"no guest: {said.decode(errors='replace')}")
            yield qemu.pid
        finally:
            qemu.kill()
            end(qemu)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts guests."""
    with ExitStack() as stack:
        yield lambda *words: stack.enter_context(guest(*words))


def backend(*words: str) -> list[str]:
    """Memory of a guest from an object of its own."""
    given = ",".join(("memory-backend-memfd,id=ram,size=64M,prealloc=on", *words))
    return ["-object", given, "-machine", "none,memory-backend=ram"]


@pytest.mark.requires("qemu")
def test_a_plain_guest(start: Start, kernel: ksm.Ksm) -> None:
    pid = start("-machine", "none", "-name", "guest=we,,b")
    found = of(pid)
    assert found.guest == "we,b"
    assert found.reasons[0].kind == "ksmd stopped"
    assert found.reasons[0].bytes >= GUEST
    until_gone(GUEST, pid, kernel)


@pytest.mark.requires("qemu")
def test_a_guest_without_mem_merge(start: Start) -> None:
    pid = start("-machine", "none,mem-merge=off")
    reason = of(pid).reasons[0]
    assert reason.kind == "not marked" and reason.bytes >= GUEST
    assert "`-machine mem-merge=off`" in reason.text and "mem-merge=on" in reason.cure
    assert kinds(start("-machine", "none,mem-merge=on"))[0] == "ksmd stopped"
    attach(pid)
    assert kinds(pid)[0] == "ksmd stopped"


@pytest.mark.requires("qemu")
def test_a_guest_with_shared_memory(start: Start) -> None:
    reason = of(start(*backend("share=on"))).reasons[0]
    assert (reason.kind, reason.bytes) == (eligible.SHARED_MEMORY, GUEST)
    assert "`-object memory-backend-memfd,id=ram,share=on`" in reason.text
    assert "share=off" in reason.cure
    assert kinds(start(*backend("share=off")))[0] == "ksmd stopped"


@pytest.mark.requires("qemu")
def test_a_guest_in_a_file_that_is_shared(start: Start, tmp_path: Path) -> None:
    """Not in memory: a file of a disk, which the page cache shares."""
    (tmp_path / "ram").touch()
    file = f"memory-backend-file,id=ram,size=64M,prealloc=on,mem-path={tmp_path}/ram"
    machine = ["-machine", "none,memory-backend=ram"]
    found = of(start("-object", f"{file},share=on", *machine))
    assert found.reasons[0].kind in (eligible.SHARED_FILE, eligible.SHARED_MEMORY)
    assert found.reasons[0].bytes == GUEST
    assert kinds(start("-object", f"{file},share=off", *machine))[0] == "ksmd stopped"


@pytest.mark.requires("qemu")
def test_a_guest_in_huge_pages_of_hugetlbfs(start: Start) -> None:
    knob, wanted = Path("/proc/sys/vm/nr_hugepages"), GUEST // (2 * MIB)
    before = int(knob.read_text())
    knob.write_text(str(before + wanted))
    try:
        if (got := int(knob.read_text()) - before) < wanted:
            pytest.skip(f"only {got} of {wanted} huge pages to be had")
        with guest(*backend("hugetlb=on")) as pid:
            reason = of(pid).reasons[0]
    finally:
        knob.write_text(str(int(knob.read_text()) - wanted))
    assert (reason.kind, reason.bytes) == (eligible.HUGETLB, GUEST)
    assert "`-object memory-backend-memfd,id=ram,hugetlb=on`" in reason.text
    assert "hugetlb=off" in reason.cure
    assert kinds(start(*backend("hugetlb=off,share=off")))[0] == "ksmd stopped"


@pytest.mark.requires("qemu")
def test_a_guest_with_locked_memory(start: Start, kernel: ksm.Ksm) -> None:
    pid = start("-machine", "none", "-overcommit", "mem-lock=on")
    found = of(pid)
    assert found.reasons[0].kind == "ksmd stopped"
    locked = next(it for it in found.reasons if it.kind == "locked")
    assert locked.bytes >= GUEST
    until_gone(GUEST, pid, kernel)
