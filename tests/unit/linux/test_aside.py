"""Readers that can be left behind: what they answer, how long they are waited for, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pagemerge.errors import AccessDenied, NoSuchProcess, PagemergeError
from pagemerge.linux import process, reader, waiting
from pagemerge.linux.aside import Aside
from pagemerge.linux.waiting import Unanswered

MINE, NOBODY = os.getpid(), 2**22 - 1


@pytest.fixture
def readers() -> Iterator[Aside]:
    """Impatient ones."""
    made = Aside(patience=0.4)
    yield made
    made.close()


def double(number: int) -> int:
    """Raise errors for some numbers."""
    if number == 3:
        raise NoSuchProcess("gone", pid=3, path="/proc/3")
    if number == 4:
        raise AccessDenied("denied", pid=4)
    if number == 5:
        raise ZeroDivisionError
    return 2 * number


def work(seconds: float) -> str:
    """Take processor time, for long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "done"


def fill(byte: int) -> int:
    """Write to the shared memory."""
    room = reader.room()
    assert room is not None
    room[:4] = bytes([byte] * 4)
    return len(room)


def suicide() -> None:
    """End as a fault would."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_answers_and_errors_come_in_order(readers: Aside) -> None:
    told = list(readers.each(double, [1, 2, 3, 4, 6], [(1,), (2,), (3,), (4,), (6,)]))
    assert [told[0], told[1], told[4]] == [2, 4, 12]
    assert isinstance(told[2], NoSuchProcess) and (told[2].pid, told[2].path) == (3, "/proc/3")
    assert isinstance(told[3], AccessDenied) and str(told[3]) == "denied"
    assert list(readers.each(double, [7])) == [14]
    assert readers.call(1, double, 8) == 16
    with pytest.raises(AccessDenied):
        readers.call(4, double, 4)


def test_a_fault_of_ours_is_raised_and_the_next_call_is_answered(readers: Aside) -> None:
    with pytest.raises(ZeroDivisionError):
        readers.call(5, double, 5)
    with pytest.raises((AttributeError, TypeError)):
        readers.call(1, lambda: None)  # it cannot be pickled
    assert readers.call(1, double, 1) == 2


def test_who_does_not_answer_is_left_behind(readers: Aside) -> None:
    began = time.monotonic()
    naps = [(0,), (9,), (0,)]
    told = list(readers.each(time.sleep, [1, MINE, NOBODY], naps))
    assert [told[0], told[2]] == [None, None]
    assert isinstance(told[1], Unanswered) and told[1].pid == MINE
    assert 0.4 <= time.monotonic() - began < 2
    again = time.monotonic()
    with pytest.raises(Unanswered, match="still waits"):
        readers.call(MINE, double, 1)
    assert time.monotonic() - again < 0.2
    assert readers.call(1, double, 1) == 2
    assert len(readers.pids) == 3  # the nursery, the one left behind, and its successor


def test_one_that_answers_late_is_forgotten(readers: Aside) -> None:
    with pytest.raises(Unanswered):
        readers.call(MINE, time.sleep, 0.6)
    time.sleep(0.5)
    assert readers.call(MINE, double, 1) == 2
    assert len(readers.pids) == 2


def test_a_user_keeps_only_some_waiting(readers: Aside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST_LEFT", 2)
    monkeypatch.setattr(waiting, "uid_of", lambda pid: pid % 2)
    told = list(readers.each(time.sleep, [1, 3, 5, 7, 2], [(9,)] * 4 + [(0,)]))
    assert [isinstance(one, Unanswered) for one in told] == [True] * 4 + [False]
    assert "2 of our processes wait for others of its user" in str(told[3])
    monkeypatch.setattr(waiting, "MOST_LEFT_IN_ALL", 2)
    assert readers.call(4, double, 1) == 2, "another user of this host"
    monkeypatch.setattr(waiting, "uid_of", lambda pid: 1 if pid % 2 else 100_000)
    with pytest.raises(Unanswered, match="wait for others"):
        readers.call(4, double, 1)


def test_quick_questions_are_asked_together(readers: Aside) -> None:
    pids = [1, 2, 3, 4, *range(6, 200)]
    told = readers.quick(double, pids)
    assert [it for it in told if isinstance(it, int)] == [2 * p for p in pids if p not in (3, 4)]
    assert isinstance(told[2], NoSuchProcess) and isinstance(told[3], AccessDenied)


def test_one_of_many_that_does_not_answer_is_found(readers: Aside) -> None:
    pids = [1, 2, MINE, 4, 5]
    told = readers.quick(time.sleep, pids, [(0,), (0,), (9,), (0,), (0,)])
    assert [isinstance(one, Unanswered) for one in told] == [False, False, True, False, False]
    assert readers.quick(double, [7]) == [14]
    with pytest.raises(Unanswered, match="still waits for it"):
        readers.call(MINE, double, 1)


def test_a_user_whose_processes_are_slow_is_not_asked_for_a_while(
    readers: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SLOW", 0.1)
    monkeypatch.setattr(waiting, "BUDGET", 0.5)
    monkeypatch.setattr(waiting, "uid_of", lambda pid: pid % 2)
    told = list(readers.each(time.sleep, [1, 3, 5, 7, 2], [(0.3,)] * 4 + [(0,)]))
    assert [isinstance(one, Unanswered) for one in told] == [False, False, True, True, False]
    with pytest.raises(Unanswered, match="too slowly"):
        readers.call(9, double, 1)
    monkeypatch.setattr(waiting, "RECOVERY", 100.0)
    time.sleep(0.1)
    assert readers.call(9, double, 1) == 2


def test_another_process_with_that_pid_is_asked(readers: Aside) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        with pytest.raises(Unanswered):
            readers.call(other.pid, time.sleep, 9)
        with pytest.raises(Unanswered, match="still waits for it"):
            readers.call(other.pid, double, 1)
        other.kill()
    assert readers.call(other.pid, double, 1) == 2


def test_one_that_works_is_waited_for(readers: Aside) -> None:
    assert readers.call(MINE, work, 1.5) == "done"


def test_a_refusal_of_the_kernel_is_about_the_process(readers: Aside) -> None:
    with pytest.raises(NoSuchProcess) as raised:
        readers.call(NOBODY, os.stat, "/proc/nobody")
    assert (raised.value.pid, raised.value.path) == (NOBODY, "/proc/nobody")


def test_large_answers_lie_in_shared_memory(readers: Aside) -> None:
    assert readers.call(MINE, fill, 7) == reader.ROOM
    before = readers.room
    assert bytes(before[:5]) == b"\7\7\7\7\0"
    with pytest.raises(Unanswered):
        readers.call(MINE, time.sleep, 9)
    readers.call(1, fill, 9)
    assert bytes(readers.room[:4]) == b"\x09" * 4
    assert bytes(before[:4]) == b"\7" * 4, "one left behind must not write into our memory"


def test_one_that_dies_is_replaced(readers: Aside) -> None:
    told = list(readers.each(_sometimes, [1, 2, 3], [(0,), (1,), (0,)]))
    assert [told[0], told[2]] == ["alive", "alive"]
    assert isinstance(told[1], PagemergeError) and "has ended" in str(told[1])


def _sometimes(dies: int) -> str:
    if dies:
        suicide()
    return "alive"


def test_a_nursery_that_somebody_ended_is_replaced(readers: Aside) -> None:
    readers.call(1, double, 1)
    (nurse,) = readers.pids - {readers.call(1, os.getpid)}
    os.kill(nurse, signal.SIGKILL)
    with pytest.raises(PagemergeError, match="has ended"):
        readers.call(1, suicide)
    assert readers.call(1, double, 1) == 2
    assert nurse not in readers.pids


def test_processor_time_of_readers_is_known(readers: Aside) -> None:
    readers.call(1, sum, range(3_000_000))
    assert 0 < readers.cpu_seconds < 5


def test_a_child_has_readers_of_its_own(readers: Aside) -> None:
    readers.call(1, double, 1)
    if (child := os.fork()) == 0:
        right = readers.call(1, double, 2) == 4 and readers.pids
        readers.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert readers.call(1, double, 3 + 3) == 12


LEFT = """
import os, sys, time
from pagemerge.linux.aside import Aside
from pagemerge.linux.waiting import Unanswered
readers = Aside(patience=0.2)
try:
    readers.call(os.getpid(), time.sleep, float(sys.argv[1]))
except Unanswered:
    readers.call(1, os.getpid)
    print(*readers.pids, flush=True)
if len(sys.argv) > 2:
    time.sleep(60)
"""


def test_none_keeps_a_pipe_or_its_asker(readers: Aside) -> None:
    """One that never answers outlives its asker, and holds nothing that others wait for."""
    began = time.monotonic()
    argv = [sys.executable, "-c", LEFT, "3"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True)
    assert time.monotonic() - began < 2.5
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 3
    there = [pid for pid in pids if _is_there(pid)]
    assert len(there) == 1, "only the one that still waits"
    _until_gone(there[0])


def test_all_end_if_their_asker_is_killed() -> None:
    argv = [sys.executable, "-c", LEFT, "1", "stay"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout
        pids = [int(word) for word in asker.stdout.readline().split()]
        asker.kill()
    for pid in pids:
        _until_gone(pid)


def _is_there(pid: int) -> bool:
    try:
        return not process.stat(pid).has_ended
    except NoSuchProcess:
        return False


def _until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while _is_there(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
