"""What programs do to their own process while its memory is merged: none of it may hurt."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pagemerge.errors import PagemergeError
from tests.conftest import Spawn
from tests.support.hubs import Hub
from tests.support.members import PAGES, member_of, merged, run


def test_closing_every_descriptor(hub: Hub, victim: Spawn) -> None:
    """The agent has its own table: it lives on, and keeps nothing of the program's open."""
    member = member_of(hub, victim)
    member.ask("intern")
    run(member, "os.closerange(3, 65536)")
    member.ask("fill", pages=PAGES, seed=2)
    member.ask("intern")
    assert merged(member)
    assert member.ask("check") == {"wrong": 0}
    code = "r, w = os.pipe(); os.close(w); answer = dict(end=len(os.read(r, 1)))"
    assert run(member, code) == {"end": 0}, "somebody else held the pipe open"


def test_signals_stay_with_the_program(hub: Hub, victim: Spawn) -> None:
    """A timer of 1 ms: its handler runs on, and never in the agent's thread (all are blocked)."""
    member = member_of(hub, victim)
    code = """
import signal
from pathlib import Path
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
for turn in range(200):
    member.memory[:] = member.wanted[:, None]
    pagemerge.intern(member.memory)
signal.setitimer(signal.ITIMER_REAL, 0)
blocked = {}
for task in Path("/proc/self/task").iterdir():
    if (task / "comm").read_text().strip() == "pagemerge":
        lines = (task / "status").read_text().splitlines()
        blocked = int(next(it for it in lines if it.startswith("SigBlk")).split()[1], 16)
wanted = sum(1 << (it - 1) for it in signal.valid_signals() if it not in (9, 19, 32, 33))
answer = dict(ticks=len(ticks), deaf=blocked & wanted == wanted)
"""
    found = run(member, code)
    assert found["ticks"] > 20
    assert found["deaf"]
    assert member.ask("check") == {"wrong": 0}


def test_no_room_for_pending_signals(hub: Hub, victim: Spawn) -> None:
    """RLIMIT_SIGPENDING: the agent is woken nevertheless; its caller does not wait for ever."""
    member = member_of(hub, victim)
    run(member, "import resource as r; r.setrlimit(r.RLIMIT_SIGPENDING, (0, 0))")
    for _ in range(5):
        member.ask("intern", patience=30)
    assert merged(member)


def test_no_descriptors_for_the_agent(hub: Hub, victim: Spawn) -> None:
    """RLIMIT_NOFILE of 0 is an error of the first request; the program and its data go on."""
    member = victim("member", env=hub.env)
    run(member, "import pagemerge.hub.reach, pagemerge.hub.decide.trust")  # what it would load late
    run(member, "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (0, 64))")
    member.ask("fill", pages=8, seed=1)
    with pytest.raises(PagemergeError, match="signalfd"):
        member.ask("intern", patience=30)
    assert member.ask("check") == {"wrong": 0}


def test_writes_during_intern(hub: Hub, victim: Spawn) -> None:
    """The contract is broken: racing writes may be lost, and every page is still its own."""
    members = [member_of(hub, victim, "intern") for _ in "ab"]
    code = """
import threading
stop, page_of = threading.Event(), member.wanted >> np.uint64(32) << np.uint64(32)
def write():
    turn = 0
    while not stop.is_set():
        turn = (turn + 1) % 3
        for page in range(len(page_of)):
            member.memory[page] = page_of[page] + np.uint64(turn)
thread = threading.Thread(target=write)
thread.start()
for _ in range(50):
    pagemerge.intern(member.memory)
stop.set(); thread.join()
foreign = (member.memory >> np.uint64(32) << np.uint64(32) != page_of[:, None]).any(axis=1)
strange = (member.memory & np.uint64(0xFFFFFFFF) > 2).any(axis=1)
answer = dict(foreign=int(foreign.sum()), strange=int(strange.sum()))
"""
    for member in members:
        member.question("call", code=code)
    for member in members:
        assert member.answer() == {"foreign": 0, "strange": 0}
        member.ask("fill", pages=PAGES, seed=1)
        member.ask("intern")
        assert member.ask("check") == {"wrong": 0}


def test_mergeable_memory_has_no_huge_pages(hub: Hub, victim: Spawn) -> None:
    """Single pages of a huge page could be shared, and nothing would be freed."""
    member = member_of(hub, victim, pages=4 * PAGES)
    code = """
base = member.memory.ctypes.data
within, answer = False, {}
for line in open("/proc/self/smaps"):
    first = line.split()[0]
    if "-" in first and not first.endswith(":"):
        start, end = (int(it, 16) for it in first.split("-"))
        within = start <= base < end
    elif within and first in ("AnonHugePages:", "VmFlags:"):
        answer[first] = line.split()[1:]
answer = dict(huge=answer["AnonHugePages:"][0], advised="nh" in answer["VmFlags:"])
"""
    found = run(member, code)
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    assert found == {"huge": "0", "advised": True}


WITHOUT_PTRACE = """
import ctypes
libc, head, caps = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
capget, capset, cap_sys_ptrace = 125, 126, 19
libc.syscall(capget, head, caps)
for word in range(3):
    caps[word] &= ~(1 << cap_sys_ptrace)
libc.syscall(capset, head, caps)
"""


@pytest.mark.requires("uffd", "root")
@pytest.mark.parametrize(("wanted", "got"), [("auto", "write-protect"), ("move", "move")])
def test_nobody_tells_of_raw_forks(hub: Hub, victim: Spawn, wanted: str, got: str) -> None:
    """Without CAP_SYS_PTRACE pages are not moved, unless by the user's own word; it says why."""
    if not os.access("/dev/userfaultfd", os.R_OK | os.W_OK):
        pytest.skip("there is no /dev/userfaultfd, the way to one without CAP_SYS_PTRACE")
    member = victim("member", env={**hub.env, "PAGEMERGE_BARRIER": wanted})
    run(member, WITHOUT_PTRACE)
    member.ask("fill", pages=PAGES, seed=1)
    member.ask("intern")
    row = hub.client(member.pid)
    assert row is not None
    assert row.barrier == got
    assert "raw clone" in row.note
    assert "CAP_SYS_PTRACE" in row.note


@pytest.mark.parametrize("barrier", ["move", "write-protect", "park"])
def test_arrays_freed_while_they_are_merged(hub: Hub, victim: Spawn, barrier: str) -> None:
    """Addresses come again with other memory, and nothing is mapped over what is there then."""
    members = [member_of(hub, victim, barrier) for _ in "ab"]
    code = """
import mmap, threading, time
end, wrong, turns = time.monotonic() + 3, 0, 0
while time.monotonic() < end:
    arrays = [pagemerge.empty((64, 512), np.uint64) for _ in range(8)]
    for number, array in enumerate(arrays):
        array[:] = number % 3
    time.sleep(0.03)  # the hub's turn, if it is quick
    for number, array in enumerate(arrays):
        wrong += int((array != number % 3).sum())
    del arrays, array
    other = [mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE) for _ in range(8)]
    for it in other:
        it.write(b"x" * len(it))
    wrong += sum(it[:] != b"x" * len(it) for it in other)
    turns += 1
answer = dict(wrong=wrong, turns=turns)
"""
    for member in members:
        member.question("call", code=code)
    for member in members:
        found = member.answer()
        assert found["wrong"] == 0
        assert found["turns"] > 3
        assert member.ask("check") == {"wrong": 0}
    assert all(it.merges > 0 for it in hub.status().clients)


WATCH = """
import ctypes
member.kept = ctypes.CDLL(None, use_errno=True).syscall(323, 0)
if member.kept < 0:
    raise OSError("userfaultfd(2) is not to be had")
"""
FUTURE = """
import ctypes
if ctypes.CDLL(None).mlockall(2):
    raise OSError("mlockall(2) is not to be had")
"""
REFUSALS = {
    "the kernel locks what comes": (
        FUTURE,
        "auto",
        "import ctypes; ctypes.CDLL(None).munlockall()",
    ),
    "a userfaultfd under park": (WATCH, "park", "os.close(member.kept)"),
}
"""What holds merging back: how it begins, under which barrier, and how it ends."""


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=() if barrier == "park" else pytest.mark.requires("uffd"))
        for what, (_, barrier, _) in REFUSALS.items()
    ],
)
def test_refused_by_name_until_it_is_gone(hub: Hub, victim: Spawn, what: str) -> None:
    begin, barrier, undo = REFUSALS[what]
    member = victim("member", env={**hub.env, "PAGEMERGE_BARRIER": barrier})
    try:
        run(member, begin)
    except PagemergeError as error:
        pytest.skip(f"cannot be had here: {error}")
    member.ask("fill", pages=PAGES, seed=3)
    other = member_of(hub, victim, "auto", pages=1)
    other.ask("copy", pages=PAGES, seed=3)

    def is_noted() -> bool:
        row = hub.client(member.pid)
        return row is not None and " ".join(what.split()[:2]) in row.note

    hub.until(is_noted, "name what holds merging back")
    assert member.ask("slabbed") == {"slabbed": 0}
    run(member, undo)
    hub.until(lambda: merged(member), "merge again")
    assert member.ask("check") == {"wrong": 0}


LOCK = """
import ctypes, mmap
libc = ctypes.CDLL(None)
def lock(address, pages, call=libc.mlock):
    if call(ctypes.c_void_p(address), pages * 4096):
        raise OSError("mlock(2) is not to be had")
def locked():
    [line] = [it for it in open("/proc/self/status") if it.startswith("VmLck")]
    return int(line.split()[1]) // 4
"""


def test_locked_memory_stays_and_other_memory_is_merged(hub: Hub, victim: Spawn) -> None:
    """The agent sees no call of this program: the kernel tells what is locked."""
    member = member_of(hub, victim)
    member.ask("fill", pages=PAGES, seed=3)
    elsewhere = """
member.kept = mmap.mmap(-1, 4 * 4096, flags=mmap.MAP_PRIVATE)
lock(ctypes.addressof(ctypes.c_char.from_buffer(member.kept)), 4)
answer = dict(locked=locked())
"""
    try:
        assert run(member, LOCK + elsewhere) == {"locked": 4}
    except PagemergeError as error:
        pytest.skip(f"cannot be had here: {error}")
    inside = "member.memory.ctypes.data + 100 * 4096, 50"
    run(member, f"{LOCK}lock({inside})")
    other = member_of(hub, victim, "auto", pages=1)
    other.ask("copy", pages=PAGES, seed=3)

    def is_noted() -> bool:
        row = hub.client(member.pid)
        return row is not None and "is locked (mlock(2))" in row.note

    hub.until(is_noted, "name what holds merging back")
    assert run(member, LOCK + "answer = dict(locked=locked())") == {"locked": 54}
    hub.until(
        lambda: member.ask("slabbed")["slabbed"] == PAGES - 50, "merge all that is not locked"
    )
    run(member, f"{LOCK}lock({inside}, libc.munlock)")
    hub.until(lambda: merged(member), "merge all of it")
    assert run(member, LOCK + "answer = dict(locked=locked())") == {"locked": 4}
    for it in (member, other):
        assert it.ask("check") == {"wrong": 0}


def test_memory_with_a_policy_of_its_own(hub: Hub, victim: Spawn) -> None:
    """mbind on a slab's mapping would move everybody's pages, also strictly inside a run."""
    member = member_of(hub, victim)
    code = """
import ctypes
mbind, bind = 237, 2
mask = ctypes.c_ulong(1)
done = ctypes.CDLL(None).syscall(mbind, ctypes.c_void_p(member.memory.ctypes.data + 200 * 4096),
    ctypes.c_ulong(100 * 4096), bind, ctypes.byref(mask), ctypes.c_ulong(64), 0)
answer = dict(done=done)
"""
    if run(member, code) != {"done": 0}:
        pytest.skip("mbind(2) is not to be had here")
    member.ask("intern")
    assert member.ask("slabbed")["slabbed"] <= PAGES - 100
    assert member.ask("check") == {"wrong": 0}


def test_a_process_close_to_its_limit_of_mappings(hub: Hub, victim: Spawn) -> None:
    """Single pages, each a mapping of its own: what is over the budget is left, and counted."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit > 1_000_000:
        pytest.skip(f"vm.max_map_count is {limit}: it takes too long to get there")
    # The store has the pages in the opposite order: no two of them make a run.
    other = victim("member", env=hub.env)
    reverse = "member.kept = pagemerge.copy(np.repeat(words[::-1], 512))"
    run(other, f"words = np.arange({PAGES}, dtype=np.uint64) * np.uint64(2**32) + 1\n{reverse}")
    member = victim("member", env=hub.env)
    code = f"""
import ctypes, mmap
def mappings():
    return open("/proc/self/maps").read().count("\\n")
room = {limit} - mappings() - {limit} // 8 - 100
member.kept = mmap.mmap(-1, 2 * room * 4096, flags=mmap.MAP_PRIVATE)
base = ctypes.addressof(ctypes.c_char.from_buffer(member.kept))
mprotect = ctypes.CDLL(None).mprotect
for page in range(0, room, 2):
    if mprotect(ctypes.c_void_p(base + page * 4096), 4096, mmap.PROT_READ):
        break
answer = dict(mappings=mappings())
"""
    assert run(member, code)["mappings"] > limit * 3 // 4
    member.ask("fill", pages=PAGES, seed=1)
    member.ask("intern")

    def is_counted() -> bool:
        row = hub.client(member.pid)
        return row is not None and row.skipped.get("over_budget", 0) > 0

    hub.until(is_counted, "count what is over the budget")
    assert 0 < member.ask("slabbed")["slabbed"] < PAGES
    assert member.ask("check") == {"wrong": 0}
