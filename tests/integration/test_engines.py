"""Who merges a program: ``pagemerge run`` with each engine. The kernel tells what it was told."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge.linux.ksm import Ksm, process_ksm
from pagemerge.linux.prctl import merge_any
from tests.conftest import Spawn, lacks_uffd, require
from tests.support import ksm
from tests.support.building import VICTIMS, compile_victim
from tests.support.commands import NOBODY, PAGEMERGE, command, elsewhere
from tests.support.hubs import Hub

LIBRARY = "libpagemerge_preload.so"
TELL = f"""
import ctypes, os
with open("/proc/self/ksm_stat") as said:
    print("kernel:", "ksm_merge_any: yes" in said.read())
print("libc:", ctypes.CDLL(None).prctl(68, 0, 0, 0, 0))
print("preload:", os.environ.get("LD_PRELOAD"))
with open("/proc/self/maps") as maps:
    print("agent:", {LIBRARY!r} in maps.read())
"""
"""What the kernel, and libc as the program sees it, say of the program itself."""


@pytest.fixture(autouse=True)
def knows() -> None:
    """The kernel has to know of merging whole programs, and say so of each."""
    if merge_any() is None or process_ksm(os.getpid()).merge_any is None:
        pytest.skip("this kernel does not tell whether it merges a whole program (Linux 6.18)")


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that nothing can be preloaded into; it says what the kernel says of it."""
    require("cc")
    made = tmp_path_factory.mktemp("static") / "static"
    try:
        return compile_victim("own_ksm.c", made, "-static")
    except subprocess.CalledProcessError:
        pytest.skip("nothing can be linked statically here (libc.a)")


def told(*words: str, code: str = TELL, **env: Any) -> tuple[dict[str, str], str]:
    """What a Python under ``pagemerge run WORDS`` says, and what was said on stderr."""
    done = command("run", *words, "--", sys.executable, "-c", code, **env)
    assert done.returncode == 0, done.stderr
    return dict(line.split(": ", 1) for line in done.stdout.splitlines()), done.stderr


def test_the_kernel_engine_is_the_kernels_alone() -> None:
    said, _ = told("--engine", "kernel", LD_PRELOAD="")
    assert said == {"kernel": "True", "libc": "1", "preload": "None", "agent": "False"}


def test_it_holds_for_what_the_program_starts() -> None:
    """Over fork and exec: a shell's child."""
    done = command("run", "--engine", "kernel", "--", "sh", "-c", "cat /proc/self/ksm_stat; true")
    assert "ksm_merge_any: yes" in done.stdout


def test_a_preload_of_ours_goes_and_others_stay() -> None:
    other = "libc.so.6"
    said, _ = told("--engine", "kernel", LD_PRELOAD=f"/no/where/{LIBRARY} {other}")
    assert (said["preload"], said["agent"]) == (other, "False")


def test_the_user_engine_switches_off_what_was_inherited() -> None:
    """As under systemd's MemoryKSM=yes."""
    before = [sys.executable, "-c", BEFORE]
    tell = [sys.executable, "-c", TELL]
    done = command("run", "--barrier", "park", "--", *tell, before=before)
    assert "kernel: False" in done.stdout
    assert "agent: True" in done.stdout
    assert "switched off kernel KSM" in done.stderr


BEFORE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(67, 1, 0, 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_under_the_user_engine_the_kernel_is_not_told_by_the_program() -> None:
    """It gets the answers that the kernel would give."""
    code = "import ctypes; print('set:', ctypes.CDLL(None).prctl(67, 1, 0, 0, 0))\n" + TELL
    said, _ = told("--barrier", "park", code=code)
    assert (said["set"], said["libc"], said["kernel"]) == ("0", "1", "False")
    wrong = "import ctypes; print('set:', ctypes.CDLL(None).prctl(67, 1, 1, 0, 0))\n" + TELL
    said, _ = told("--barrier", "park", code=wrong)
    assert (said["set"], said["libc"]) == ("-1", "0")


def test_a_range_belongs_to_one_engine_at_a_time(hub: Hub, victim: Spawn) -> None:
    """A client that has kernel KSM switched on is left alone, by name of the cause; no longer."""
    one = victim("member", env=hub.env)
    one.ask("fill", pages=64, seed=1)
    one.ask("call", code=SWITCH.format(1))
    assert process_ksm(one.pid).merge_any
    assert one.ask("call", code=INTERN) == {"merged": 0}
    hub.until(lambda: noted(hub, one.pid), "say why it is left alone")
    assert one.ask("check") == {"wrong": 0}
    one.ask("call", code=SWITCH.format(0))
    assert one.ask("call", code=INTERN) == {"merged": 64}
    assert one.ask("check") == {"wrong": 0}


SWITCH = "import ctypes; ctypes.CDLL(None).prctl(67, {}, 0, 0, 0)"
INTERN = """
from pagemerge import _core
answer = dict(merged=_core.intern_pages(member.memory.reshape(-1).view(np.uint8)))
"""


def noted(hub: Hub, pid: int) -> bool:
    row = hub.client(pid)
    return row is not None and "PR_SET_MEMORY_MERGE" in row.note


def test_auto_takes_the_user_engine_where_it_can_work() -> None:
    said, why = told("--engine", "auto", "--barrier", "park")
    assert (said["kernel"], said["agent"]) == ("False", "True")
    first, last = why.splitlines()
    assert "pagemerge run: user engine (park)" in first
    assert "marked no memory" in last, "told at its end"


@pytest.fixture
def ksmd() -> Iterator[None]:
    """Somebody drives ksmd, so it is not for pagemerge to say that it stands."""
    require("root")
    require("kernel")
    with ksm.borrowed():
        yield


@pytest.mark.usefixtures("ksmd")
def test_auto_takes_the_kernel_for_a_static_program(static: Path) -> None:
    done = command("run", "--engine", "auto", "--barrier", "park", "--", str(static))
    assert (done.returncode, done.stdout) == (0, "ksm_merge_any: yes\n")
    assert "kernel engine, one domain for the whole host" in done.stderr
    assert "linked statically" in done.stderr


@pytest.mark.requires("root")
@pytest.mark.parametrize(
    ("run", "pages", "reason"), [(0, 100, "ksmd is stopped"), (1, 0, "looks at no page")]
)
def test_auto_takes_no_ksmd_that_stands(static: Path, run: int, pages: int, reason: str) -> None:
    knobs = f"echo {run} > run && echo {pages} > pages_to_scan && echo 20 > sleep_millisecs"
    ksm = "/sys/kernel/mm/ksm"
    mounts = f"mount -t tmpfs none /sys/kernel/mm && mkdir {ksm} && (cd {ksm} && {knobs})"
    done = elsewhere(mounts, "run", "--engine", "auto", "--barrier", "park", "--", str(static))
    assert (done.returncode, done.stdout) == (77, "")
    assert "linked statically" in done.stderr and reason in done.stderr


@pytest.mark.usefixtures("ksmd")
def test_auto_says_both_reasons_where_neither_can(static: Path) -> None:
    done = command("run", "--engine", "auto", "--domain", "mine", "--", str(static))
    assert done.returncode == 77
    assert "user engine: " in done.stderr and "linked statically" in done.stderr
    assert "kernel engine: kernel KSM knows one domain" in done.stderr
    assert not done.stdout


@pytest.mark.parametrize(
    "words", [["--domain", "mine"], ["--barrier", "park"], ["--socket", "/nowhere"]]
)
def test_what_only_the_user_engine_can_is_not_dropped_in_silence(words: list[str]) -> None:
    done = command("run", "--engine", "kernel", *words, "--", "true")
    assert done.returncode == 2
    assert words[0] in done.stderr


@pytest.mark.requires("root")
def test_an_ordinary_user_may_use_the_kernel_engine() -> None:
    """The prctl needs no privilege; whether ksmd runs is root's to decide, and is said."""
    words = ["run", "--engine", "kernel", "--", "cat", "/proc/self/ksm_stat"]
    done = command(*words, user=NOBODY)
    assert (done.returncode, "ksm_merge_any: yes" in done.stdout) == (0, True), done.stderr


@pytest.mark.requires("kernel")
@pytest.mark.parametrize(
    ("knobs", "reason"),
    [({"run": 0}, "ksmd is stopped"), ({"run": 1, "pages_to_scan": 0}, "pages_to_scan=0")],
)
def test_a_session_is_told_once_that_ksmd_stands(knobs: dict[str, int], reason: str) -> None:
    """However many programs it starts; another session is told again."""
    run = f"{shlex.join(PAGEMERGE)} run --engine kernel --"
    first = f"{run} sleep 60 & until grep -q yes /proc/$!/ksm_stat; do :; done"
    # The first is marked before it has become its program, and says what it has to say in between.
    script = f"{first}; until [ $(cat /proc/$!/comm) = sleep ]; do :; done; {run} true; kill $!"
    ksm = Ksm()
    before = ksm.knobs()
    # Not with our lock held: whoever drives ksmd may have it stand.
    ksm.write(**knobs)
    try:
        for _ in range(2):
            argv = ["setsid", "--wait", "sh", "-c", script]
            done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
            assert done.stderr.count("nothing is merged yet") == 1, done.stderr
            assert reason in done.stderr
    finally:
        ksm.put_back(before)


@pytest.mark.requires("kernel", "root")
def test_an_attached_program_does_not_keep_it_from_being_told() -> None:
    mine = shlex.join(PAGEMERGE)
    script = (
        "sleep 60 & until [ $(cat /proc/$!/comm) = sleep ]; do :; done; "
        f"{mine} attach --across-users $! >/dev/null && {mine} run --engine kernel -- true; kill $!"
    )
    ksm = Ksm()
    before = ksm.knobs()
    ksm.write(run=0)
    try:
        argv = ["setsid", "--wait", "sh", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    finally:
        ksm.put_back(before)
    assert done.stderr.count("nothing is merged yet") == 1, done.stderr


@pytest.mark.requires("root")
def test_where_ksmd_is_not_to_be_seen_it_says_so() -> None:
    """In a container that shows no /sys/kernel/mm/ksm the program is marked all the same."""
    words = ["run", "--engine", "kernel", "--", "cat", "/proc/self/ksm_stat"]
    done = elsewhere("mount -t tmpfs none /sys/kernel/mm", *words)
    assert "ksm_merge_any: yes" in done.stdout
    assert "not visible here" in done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86_64")
@pytest.mark.parametrize(
    ("number", "cause", "cure"),
    [
        (errno.EINVAL, "Linux 6.4 with CONFIG_KSM", "the user engine needs neither"),
        (errno.EPERM, "seccomp", "allow prctl"),
    ],
)
def test_where_the_kernel_will_not_it_is_77_and_nothing_runs(
    number: int, cause: str, cure: str
) -> None:
    before = [sys.executable, str(VICTIMS / "confined.py"), str(number)]
    words = ["run", "--engine", "kernel", "--", "echo", "it ran"]
    done = command(*words, before=before)
    assert (done.returncode, done.stdout) == (77, "")
    assert cause in done.stderr and cure in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("ksmd")
def test_without_userfaultfd_auto_takes_the_kernel() -> None:
    if lacks_uffd() is not None:
        pytest.skip("already this user has none")
    words = ["run", "--engine", "auto", "--", "cat", "/proc/self/ksm_stat"]
    done = command(*words, user=NOBODY)
    assert "ksm_merge_any: yes" in done.stdout, done.stderr
    assert "vm.unprivileged_userfaultfd" in done.stderr


DRIVING = [["daemon", "--engine", "kernel"], ["attach", "1"], ["detach", "1"]]


@pytest.mark.requires("root", "kernel")
@pytest.mark.parametrize("words", DRIVING, ids=lambda words: words[0])
def test_who_may_not_drive_ksmd_is_told_and_nothing_is_done(words: list[str]) -> None:
    before = Ksm().knobs()
    done = command(*words, user=NOBODY)
    assert (done.returncode, done.stdout) == (77, "")
    assert "needs root" in done.stderr
    assert ("--engine user" in done.stderr) == (words[0] == "daemon"), "it reaches none that run"
    assert Ksm().knobs() == before


@pytest.mark.requires("root")
@pytest.mark.parametrize("words", DRIVING, ids=lambda words: words[0])
def test_where_there_is_no_ksm_it_is_77(words: list[str]) -> None:
    done = elsewhere("mount -t tmpfs none /sys/kernel/mm", *words)
    assert (done.returncode, done.stdout) == (77, "")
    assert "CONFIG_KSM" in done.stderr
    assert ("--engine user" in done.stderr) == (words[0] == "daemon"), "it reaches none that run"
