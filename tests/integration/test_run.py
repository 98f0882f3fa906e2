"""``pagemerge run``: unmodified programs that mark their memory, merged by the preloaded agent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import lacks_uffd, require
from tests.support.building import compile_victim
from tests.support.hubs import PATIENCE, Hub
from tests.support.programs import I386, MUSL, elf, made
from tests.support.talker import Talker, talking

PAGES, KINDS = 4096, 50
RUN = [sys.executable, "-m", "pagemerge", "run"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled victim: it has to be no Python."""
    require("cc")
    return compile_victim("marker.c", tmp_path_factory.mktemp("marker") / "marker")


class Marker(Talker):
    """The victim under ``pagemerge run``; ``do`` has it do something and fails if it went wrong."""

    def do(self, command: str) -> None:
        assert self.tell(command) == "ok"


@contextlib.contextmanager
def marking(program: Path, hub: Hub, barrier: str) -> Iterator[Marker]:
    """Run the victim; it is killed at the end."""
    with talking(*RUN, "--barrier", barrier, "--", str(program), env=hub.env) as talker:
        marker = Marker(talker.process)
        assert marker.hear() == "ready"
        yield marker


def until_merged(hub: Hub, zero: int) -> None:
    """All pages map few stable pages, or were zero and are given back."""

    def merged() -> bool:
        status = hub.status()
        mapped = status.pages_shared + status.pages_sharing
        return (status.zero_pages, mapped) == (zero, PAGES - zero)

    try:
        hub.until(merged, "merge the program")
    finally:
        print(hub.status())


def barriers() -> list[object]:
    uffd = pytest.mark.requires("uffd")
    return [
        pytest.param("move", marks=uffd),
        pytest.param("write-protect", marks=uffd),
        "park",
    ]


@pytest.mark.parametrize("barrier", barriers())
@pytest.mark.parametrize(
    "command",
    [
        "check",
        "fill",
        "discard",
        "free",
        "fork",
        "fork_raw",
        "unmerge",
        "protect",
        "move",
        "unmap",
    ],
)
def test_a_program_may_do_what_it_wants(
    hub: Hub, program: Path, barrier: str, command: str
) -> None:
    """Each call on merged memory ends as it does on memory of its own."""
    zero = len(range(0, PAGES, KINDS))
    with marking(program, hub, barrier) as marker:
        until_merged(hub, zero)
        maps = Path(f"/proc/{marker.process.pid}/maps")
        assert "pagemerge-slab" in maps.read_text()
        marker.do(command)
        marker.do("check")


@pytest.mark.parametrize("barrier", barriers())
def test_it_is_merged_again_after_all_that(hub: Hub, program: Path, barrier: str) -> None:
    with marking(program, hub, barrier) as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        for command in ["fork", "discard", "protect", "fill"]:
            marker.do(command)
        until_merged(hub, len(range(KINDS - 3, PAGES, KINDS)))
        marker.do("check")


@pytest.mark.parametrize("barrier", barriers())
@pytest.mark.parametrize("command", ["discard", "free"])
def test_what_is_given_up_counts_as_merged_no_longer(
    hub: Hub, program: Path, barrier: str, command: str
) -> None:
    """Nobody touches it again; a look at its pages tells nothing."""
    zero = len(range(0, PAGES, KINDS))
    gone = sum(page % KINDS > 0 for page in range(PAGES // 4, PAGES // 2))
    with marking(program, hub, barrier) as marker:
        until_merged(hub, zero)
        marker.do(command)

        def counted() -> bool:
            row = hub.client(marker.process.pid)
            return row is not None and row.merged_pages == PAGES - zero - gone

        hub.until(counted, "see that it is merged no longer")
        marker.do("check")


@pytest.mark.parametrize("barrier", barriers())
def test_what_is_protected_stays_so_beside_a_merge(hub: Hub, program: Path, barrier: str) -> None:
    """A merge under way puts no writable mapping over what has just become read-only."""
    with marking(program, hub, barrier) as marker:
        marker.do("guard")


@pytest.mark.parametrize("barrier", barriers())
@pytest.mark.parametrize("before", ["protect", "discard"])
def test_what_was_one_mapping_moves_as_one(
    hub: Hub, program: Path, barrier: str, before: str
) -> None:
    """mremap refuses several mappings (EFAULT), and merging must not be what made them."""
    with marking(program, hub, barrier) as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        marker.do(before)
        marker.do("move")


@pytest.mark.parametrize("barrier", barriers())
def test_it_moves_as_one_in_a_forked_child(hub: Hub, program: Path, barrier: str) -> None:
    """There nobody remembers what was merged."""
    with marking(program, hub, barrier) as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        marker.do("discard")
        marker.do("fill")
        marker.do("move in a child")
        marker.do("check")


def test_a_forked_child_is_not_locked_out(hub: Hub, tmp_path: Path) -> None:
    """Whatever another thread was about to do: no lock of ours stays taken in the child."""
    made = compile_victim("fork_marking.c", tmp_path / "fork_marking", "-pthread")
    assert run("--barrier", "park", "--", str(made), **hub.env).returncode == 0


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **env}
    )


def test_a_program_that_is_not_there_is_wrong_usage() -> None:
    done = run("--barrier", "park", "--", "no-such-program")
    assert done.returncode == 2
    assert "no program 'no-such-program'" in done.stderr


@pytest.mark.parametrize(
    ("program", "why"),
    [("/", "is a folder"), ("/etc/passwd", "is not executable"), ("", "no program ''")],
)
def test_what_is_there_and_no_program_is_told_as_it_is(program: str, why: str) -> None:
    done = run("--", program)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs are for x86_64")
@pytest.mark.parametrize(
    ("contents", "reason"),
    [(elf(), "linked statically"), (elf(MUSL), "musl"), (elf(bits=32, machine=I386), "32-bit")],
)
@pytest.mark.parametrize("script", [False, True])
def test_a_program_that_the_agent_cannot_get_into_is_refused(
    tmp_path: Path, contents: bytes, reason: str, script: bool
) -> None:
    """Before it starts, with the reason and the cure."""
    program = made(tmp_path / "program", contents)
    if script:
        program = made(tmp_path / "script", f"#!{program}\n")
    done = run("--barrier", "park", "--", str(program))
    assert (done.returncode, done.stdout) == (77, "")
    assert reason in done.stderr
    assert "--engine kernel" in done.stderr or "nor can Linux" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [("#!/no/where\n", "interpreter /no/where is missing"), ("echo\n", "no #!")],
)
def test_what_the_kernel_cannot_start_is_told_with_the_cause(
    tmp_path: Path, text: str, cause: str
) -> None:
    done = run("--barrier", "park", "--", str(made(tmp_path / "program", text)))
    assert (done.returncode, done.stdout) == (1, "")
    assert cause in done.stderr


def test_without_a_barrier_it_says_how_to_get_one() -> None:
    if lacks_uffd() is None:
        pytest.skip("this user has a full-mode userfaultfd")
    done = run("--", "true")
    assert done.returncode == 77
    assert "vm.unprivileged_userfaultfd" in done.stderr
    assert "--barrier park" in done.stderr


def test_the_barrier_may_be_asked_for_in_the_environment() -> None:
    said = {}
    for name in ("park", "nonsense"):
        argv = [*RUN, "--engine", "auto", "--", "true"]
        env = {**os.environ, "PAGEMERGE_BARRIER": name}
        done = subprocess.run(
            argv, capture_output=True, text=True, env=env, timeout=30, check=False
        )
        said[name] = done.returncode, done.stderr
    assert said["park"][0] == 0 and "user engine (park)" in said["park"][1]
    assert said["nonsense"][0] == 2 and 'no barrier is called "nonsense"' in said["nonsense"][1]


def test_a_preload_of_the_users_own_stays(program: Path) -> None:
    done = run("--barrier", "park", "--", "sh", "-c", "echo $LD_PRELOAD", LD_PRELOAD="libc.so.6")
    assert done.stdout.strip().endswith("libpagemerge_preload.so:libc.so.6")


def children(pid: int) -> list[int]:
    """The child processes of all threads, the agent's helpers too."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(it) for task in tasks for it in task.read_text().split()]
    return []


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_nobody_stays_stopped_when_the_holder_does(
    hub: Hub, program: Path, blow: signal.Signals
) -> None:
    """Who stops the threads is stopped itself, or killed, at any point; no write is lost.

    A kill just while a window is compared may kill the program by SIGSEGV if it writes there: that
    is better than a wrong byte.
    """
    stop, blows = threading.Event(), 0

    def strike() -> None:
        nonlocal blows
        while not stop.is_set():
            for child in children(marker.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, blow)
                    blows += 1
            stop.wait(0.002)

    with marking(program, hub, "park") as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        striker = threading.Thread(target=strike)
        striker.start()
        try:
            end = time.monotonic() + 5
            while time.monotonic() < end:
                marker.do("discard")
                marker.do("fill")
        except AssertionError:
            if blow != signal.SIGKILL or marker.process.wait(PATIENCE) != -signal.SIGSEGV:
                raise
            return
        finally:
            stop.set()
            striker.join()
        assert blows > 10
        until_merged(hub, len(range(KINDS - 3, PAGES, KINDS)))
        marker.do("check")


def test_memory_shared_without_threads_is_not_parked(hub: Hub, program: Path) -> None:
    """A process of clone(CLONE_VM) writes there, and is not stopped; nor is a vfork's child."""
    with marking(program, hub, "park") as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        marker.do("vfork")
        marker.do("share")
        until_noted(hub, marker, "shares this process's memory")
        marker.do("alone")
        marker.do("fill")
        until_merged(hub, len(range(KINDS - 3, PAGES, KINDS)))
        marker.do("check")


@pytest.mark.requires("uffd")
def test_a_program_with_a_userfaultfd_is_not_parked(hub: Hub, program: Path) -> None:
    """A stopped thread brings no pages: whoever waits for one would wait for ever."""
    with marking(program, hub, "park") as marker:
        until_merged(hub, len(range(0, PAGES, KINDS)))
        marker.do("watch")
        marker.do("fill")
        until_noted(hub, marker, "a userfaultfd")
        marker.do("unwatch")
        until_merged(hub, len(range(KINDS - 3, PAGES, KINDS)))
        marker.do("check")


def until_noted(hub: Hub, marker: Marker, note: str) -> None:
    """The status names what holds merging back."""

    def noted() -> bool:
        row = hub.client(marker.process.pid)
        return row is not None and note in row.note

    hub.until(noted, f"say {note}")
