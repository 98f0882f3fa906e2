"""Processes that run are opted in to kernel KSM and out again, and notice nothing of it.

The victims count what their own system calls say; the kernel is asked whether it took effect.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from pathlib import Path

import pytest

from pagemerge import _core
from pagemerge.errors import PagemergeError
from pagemerge.linux.maps import mappings
from tests.conftest import Spawn, missing
from tests.support.attaching import (
    Victim,
    build,
    marked,
    merge_any,
    rounds,
    start,
    state,
    until_it_goes_on,
    until_state,
)
from tests.support.building import compile_victim

pytestmark = pytest.mark.requires("kernel", "cc")

ROUNDS = 1000
KINDS = ("nanosleep", "epoll", "epoll-endless", "pipe", "futex", "busy", "threads")


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("victims")
    return {name: build(name, folder) for name in ("waiter", "signalled", "caller")}


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_rounds_show_in_nothing(
    kind: str, programs: dict[str, Path], tmp_path: Path
) -> None:
    with Victim(programs["waiter"], kind, tmp_path) as victim:
        rounds(victim.pid, ROUNDS)
        until_it_goes_on(victim.pid)  # it has been stopped all the time
        counted = victim.finish()
    assert counted["wrong"] == 0
    assert counted["turns"] > 0
    # Linux's own rule for epoll_wait with a timeout, and this victim has no other thread to stop.
    # Where there is one (`threads`), such a wait is left alone, but for a rare race.
    assert counted["eintr"] <= {"epoll": 2 * ROUNDS, "threads": ROUNDS // 50}.get(kind, 0)
    if kind == "epoll":
        assert counted["eintr"] > 0, "documented, but not so any more"


@pytest.mark.parametrize("kind", ["busy", "suspend"])
def test_no_signal_is_lost_or_doubled(kind: str, programs: dict[str, Path], tmp_path: Path) -> None:
    with Victim(programs["signalled"], kind, tmp_path) as victim:
        rounds(victim.pid, ROUNDS)
        until_it_goes_on(victim.pid)
        counted = victim.finish()
    assert counted["wrong"] == 0
    assert counted["numbered"] == counted["sent"] > 0
    assert counted["ticks"] > 0


def test_python_notices_nothing(victim: Spawn) -> None:
    child = victim("thinker")
    rounds(child.pid, ROUNDS)
    before = child.ask("report")
    assert before["wrong"] == []
    assert before["threads"] == 6
    deadline = time.monotonic() + 30
    while any(child.ask("report")[what] <= before[what] for what in ("sleeps", "items", "polls")):
        assert time.monotonic() < deadline, "one of its threads goes on no more"
        time.sleep(0.01)
    assert child.ask("report")["wrong"] == []


def test_all_its_memory_is_mergeable_and_its_childrens(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    with Victim(programs["waiter"], "nanosleep", tmp_path) as victim:
        assert not merge_any(victim.pid)
        assert not marked(victim.pid)
        _core.inject_prctl(victim.pid, True)
        assert merge_any(victim.pid)
        assert marked(victim.pid)
        assert _core.inject_prctl(victim.pid, True)[0], "it was so already"
        _core.inject_prctl(victim.pid, False)
        assert not merge_any(victim.pid)
        assert not marked(victim.pid)


def test_ranges_are_marked_one_by_one(programs: dict[str, Path], tmp_path: Path) -> None:
    with Victim(programs["waiter"], "threads", tmp_path) as victim:
        private = [one for one in mappings(victim.pid) if one.flags == "rw-p" and not one.path]
        chosen = private[::2]
        starts = array("Q", [4096, *(one.start for one in chosen)])
        lengths = array("Q", [4096, *(one.end - one.start for one in chosen)])
        told, stops, held, longest = _core.inject_madvise(victim.pid, starts, lengths, 12)
        results = memoryview(told).cast("i").tolist()
        assert results[0] == 12, "ENOMEM: nothing is mapped there"
        assert set(results[1:]) == {0}
        assert stops > 0
        assert 0 < longest <= held
        assert marked(victim.pid) == {(one.start, one.end) for one in chosen}
        _core.inject_madvise(victim.pid, starts, lengths, 13)
        assert not marked(victim.pid)
        assert victim.finish()["wrong"] == 0


def test_a_stopped_process_stays_stopped(programs: dict[str, Path], tmp_path: Path) -> None:
    with Victim(programs["waiter"], "threads", tmp_path) as victim:
        os.kill(victim.pid, signal.SIGSTOP)
        pid, how = os.waitpid(victim.pid, os.WUNTRACED)  # when the last thread has stopped
        assert pid == victim.pid and os.WIFSTOPPED(how)
        for _ in range(100):
            rounds(victim.pid, 1)
            until_state(victim.pid, "T")
        tasks = Path(f"/proc/{victim.pid}/task").iterdir()
        assert {state(int(task.name)) for task in tasks} == {"T"}
        assert os.waitpid(victim.pid, os.WUNTRACED | os.WNOHANG) == (0, 0), "its parent is told"
        os.kill(victim.pid, signal.SIGCONT)
        until_state(victim.pid, "RS")
        assert victim.finish()["wrong"] == 0


def test_stops_and_signals_that_come_meanwhile(programs: dict[str, Path], tmp_path: Path) -> None:
    """SIGSTOP and SIGCONT arrive at any point of a round; the last of them decides."""
    over = threading.Event()

    def stop_and_continue() -> None:
        while not over.is_set():
            os.kill(victim.pid, signal.SIGSTOP)
            over.wait(0.0007)
            os.kill(victim.pid, signal.SIGCONT)
            over.wait(0.0003)

    with Victim(programs["signalled"], "busy", tmp_path) as victim:
        other = threading.Thread(target=stop_and_continue)
        other.start()
        try:
            rounds(victim.pid, 300)
        finally:
            over.set()
            other.join()
        os.kill(victim.pid, signal.SIGSTOP)
        until_state(victim.pid, "T")
        rounds(victim.pid, 1)
        until_state(victim.pid, "T")
        os.kill(victim.pid, signal.SIGCONT)
        counted = victim.finish()
    assert counted["numbered"] == counted["sent"] > 0
    assert counted["wrong"] == 0


def test_one_that_is_killed_meanwhile(programs: dict[str, Path], tmp_path: Path) -> None:
    for turn in range(20):
        with Victim(programs["waiter"], "threads", tmp_path) as victim:
            timer = threading.Timer(turn * 0.002, os.kill, (victim.pid, signal.SIGKILL))
            timer.start()
            with pytest.raises(PagemergeError, match=str(victim.pid)):
                while True:
                    rounds(victim.pid, 1)
            timer.join()
            assert victim.process.wait(30) == -signal.SIGKILL


ONCE = """
import sys
from pagemerge import _core
sys.stdin.readline()
for on in (True, False):
    _core.inject_prctl(int(sys.argv[1]), on)
"""


def test_whoever_attaches_may_be_killed(programs: dict[str, Path], tmp_path: Path) -> None:
    """At any moment: the stop is brought to its end by a process of its own."""
    with Victim(programs["waiter"], "threads", tmp_path) as victim:
        for turn in range(20):
            argv = [sys.executable, "-c", ONCE, str(victim.pid)]
            with subprocess.Popen(argv, stdin=subprocess.PIPE) as attacher:
                assert attacher.stdin is not None
                until_blocked(attacher.pid)
                attacher.stdin.write(b"\n")
                attacher.stdin.flush()
                time.sleep(turn * 0.00008)
                attacher.kill()
        assert victim.process.poll() is None
        _core.inject_prctl(victim.pid, False)
        assert victim.finish()["wrong"] == 0


def test_two_attach_at_once(programs: dict[str, Path], tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def attach() -> None:
        try:
            for turn in range(200):
                _core.inject_prctl(victim.pid, turn % 2 == 0)
        except BaseException as error:
            failures.append(error)

    with Victim(programs["waiter"], "threads", tmp_path) as victim:
        both = [threading.Thread(target=attach) for _ in range(2)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert not failures
        assert victim.finish()["wrong"] == 0


def test_one_that_waits_for_a_vfork_is_let_go(programs: dict[str, Path]) -> None:
    process = start(programs["caller"], "vfork")
    try:
        until_state(process.pid, "D")
        since = time.monotonic()
        with pytest.raises(PagemergeError, match="did not stop in time"):
            _core.inject_prctl(process.pid, True)
        assert time.monotonic() - since < 10
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_calls_that_a_stop_can_end(programs: dict[str, Path]) -> None:
    """Exactly those that docs/kernel.md lists."""
    listed = subprocess.check_output([programs["caller"], "list"], text=True).split()
    ended = {call: said for call in listed if (said := said_after_a_stop(programs, call))}
    in_part = {call: said for call, said in ended.items() if call.endswith("_in_part")}
    assert in_part.keys() == {"recv_waitall_in_part", "write_pipe_in_part", "send_in_part"}
    assert all(0 < int(said) < 1 << 20 for said in in_part.values())
    assert ended.keys() - in_part.keys() == {
        "epoll_wait",
        "epoll_pwait2",
        "recv_timed",
        "read_socket_timed",
        "accept_timed",
        "semtimedop",
        "sigtimedwait",
        "io_getevents",
        "io_uring_enter",
    }
    assert {ended[call] for call in ended.keys() - in_part.keys()} == {"-1 EINTR"}


def said_after_a_stop(programs: dict[str, Path], call: str) -> str:
    """What the call said when it ended; empty if it is waiting again, or still."""
    process = start(programs["caller"], call)
    try:
        until_blocked(process.pid)
        _core.inject_prctl(process.pid, True)
        for _ in range(3):
            time.sleep(0.005)
            if process.poll() is not None or not blocked(process.pid):
                return process.communicate(timeout=30)[0].rstrip("\n")
        return ""
    finally:
        process.kill()
        process.communicate()


def blocked(pid: int) -> bool:
    """Does it sleep in a system call?"""
    call = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return state(pid) == "S" and call.isdecimal()


def stays_blocked(pid: int) -> bool:
    """Does it sleep in a system call, and a moment later too?"""
    if not blocked(pid):
        return False
    time.sleep(0.002)
    return blocked(pid)


def until_blocked(pid: int) -> None:
    deadline = time.monotonic() + 30
    while not stays_blocked(pid):
        assert time.monotonic() < deadline, f"process {pid} makes no call that blocks"


def test_who_is_refused(programs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PagemergeError, match="cannot trace itself"):
        _core.inject_prctl(os.getpid(), True)
    with pytest.raises(PagemergeError, match="thread of the kernel") as caught:
        _core.inject_prctl(2, True)
    assert caught.value.pid == 2
    ended = start(programs["caller"], "pause")
    ended.kill()
    until_state(ended.pid, "Z")
    with pytest.raises(PagemergeError, match="has ended"):
        _core.inject_prctl(ended.pid, True)
    ended.communicate()
    with pytest.raises(LookupError):
        _core.inject_prctl(ended.pid, True)


def test_one_that_is_traced_is_left_to_its_tracer(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    seize, detach, interrupt = 0x4206, 17, 0x4207
    libc = ctypes.CDLL(None, use_errno=True)
    with Victim(programs["waiter"], "nanosleep", tmp_path) as victim:
        assert libc.ptrace(seize, victim.pid, None, None) == 0
        with pytest.raises(PagemergeError, match=f"traced by process {os.getpid()}"):
            _core.inject_prctl(victim.pid, True)
        assert libc.ptrace(interrupt, victim.pid, None, None) == 0
        os.waitpid(victim.pid, 0)
        assert libc.ptrace(detach, victim.pid, None, None) == 0
        rounds(victim.pid, 1)
        assert victim.finish()["wrong"] == 0


TRACED_FOR_A_WHILE = """
import ctypes, os, sys, time
for thread in os.listdir(f"/proc/{sys.argv[1]}/task"):
    if thread != sys.argv[1]:
        assert ctypes.CDLL(None).ptrace(0x4206, int(thread), None, None) == 0
print("ready", flush=True)
time.sleep(0.3)
"""


def test_who_traces_its_threads_for_a_while_is_waited_for(
    programs: dict[str, Path], tmp_path: Path
) -> None:
    """Another pagemerge, which makes one of them separate pages, for example."""
    with Victim(programs["waiter"], "threads", tmp_path) as victim:
        argv = [sys.executable, "-c", TRACED_FOR_A_WHILE, str(victim.pid)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == "ready\n"
            _core.inject_prctl(victim.pid, True)
        assert merge_any(victim.pid)
        assert victim.finish()["wrong"] == 0


CONFINED = """
import ctypes, sys
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte),
                ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
allow = (Filter * 1)(Filter(0x06, 0, 0, 0x7fff0000))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Program(1, allow)), 0, 0) == 0
print("ready", flush=True)
sys.stdin.read()
"""


def test_one_that_seccomp_confines_is_not_put_at_risk() -> None:
    process = start(sys.executable, "-c", CONFINED)
    try:
        with pytest.raises(PagemergeError, match="seccomp"):
            _core.inject_prctl(process.pid, True)
        assert not merge_any(process.pid)
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_a_32_bit_program_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "small"
    try:
        compile_victim("small.c", program, "-m32", "-nostdlib", "-static", "-fno-pic", "-no-pie")
        process = start(program)
    except (OSError, subprocess.CalledProcessError) as error:
        missing("m32", f"no 32-bit programs can be built or run here: {error}")
    try:
        with pytest.raises(PagemergeError, match="32-bit"):
            _core.inject_prctl(process.pid, True)
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.requires("root", "cc")
def test_a_file_that_never_answers_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A file system of the process's own (FUSE) may never give a page of its text."""
    made = compile_victim("silent_text.c", tmp_path / "silent_text")
    script = Path(__file__).parent.parent / "victims" / "silent.py"
    done = subprocess.run(
        [sys.executable, str(script), str(made)], capture_output=True, text=True, timeout=60
    )
    if done.stdout.startswith("no such file here"):
        missing("mounts", done.stdout.strip())
    assert done.stdout == "answers\n", done.stderr
