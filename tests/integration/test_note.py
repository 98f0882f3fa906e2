"""What ``pagemerge run`` tells at the end of a program: what was merged of it, or why nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hubs import Hub

RUN = [sys.executable, "-m", "pagemerge", "run", "--barrier", "park"]
PYTHON = [sys.executable, "-c"]
MARK = (
    "import mmap\n"
    "one = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_{} | mmap.MAP_ANONYMOUS)\n"
    "one.madvise(mmap.MADV_MERGEABLE)\n"
)
MALLOC = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "libc.malloc.restype = ctypes.c_size_t\n"
    "start = libc.malloc(1 << 20) + 4096 & ~4095\n"
    "assert libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(1 << 16), 12) == 0\n"
)
LISTS = "held = [random.Random(1).randbytes(1 << 16) for _ in range(64)]"
PRIVATE, SHARED = MARK.format("PRIVATE"), MARK.format("SHARED")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where notes lie; at the end none is left."""
    yield tmp_path / "pagemerge"
    assert not list((tmp_path / "pagemerge").glob("run-*"))


def told(folder: Path, *words: str, **env: str) -> list[str]:
    """The lines of ``pagemerge run WORDS`` on standard error."""
    more = {"XDG_RUNTIME_DIR": str(folder.parent), "PAGEMERGE_AUTOSTART": "0"} | env
    done = subprocess.run(
        [*RUN, *(words if "--" in words else ["--", *words])],
        capture_output=True,
        text=True,
        env={**os.environ, **more},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", "it marked no memory as mergeable"),
        (SHARED, "it marked shared memory only, and no engine merges that"),
        (MALLOC, "it marked memory only that this engine leaves alone"),
        ("import os; os._exit(0)", "it marked no memory"),
        ("import os; os.fork() and os.wait()", "it marked no memory"),
        ("import os, sys; os.execv(sys.executable, ['python', '-c', ''])", "it marked no memory"),
    ],
)
def test_it_is_told_once_and_why(folder: Path, code: str, reason: str) -> None:
    (line,) = told(folder, *PYTHON, code)
    assert line.startswith(f"pagemerge run: nothing of {Path(sys.executable).name} was merged: ")
    assert reason in line


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ('"$0" -c "$1"; exit 0', 0),
        ('"$0" -c pass; "$0" -c pass; exit 0', 1),
        ('exec "$0" -c "$1"', 0),
        ('exec "$0" -c pass', 1),
        ('"$0" -c "$2"; "$0" -c pass; exit 0', 1),
        ('"$0" -c "$2"; "$0" -c "$1"; exit 0', 0),
    ],
)
def test_what_a_shell_starts_counts(hub: Hub, folder: Path, script: str, lines: int) -> None:
    found = told(folder, "sh", "-c", script, sys.executable, PRIVATE, SHARED, **hub.env)
    assert len(found) == lines, found


@pytest.mark.parametrize(
    "code",
    [
        PRIVATE,
        SHARED + PRIVATE,
        f"import os\nif os.fork() == 0:\n    exec({PRIVATE!r})\n    os._exit(0)\nos.wait()",
        "import pagemerge; pagemerge.buffer(4096)",
    ],
)
def test_who_has_nothing_equal_is_told_nothing(hub: Hub, folder: Path, code: str) -> None:
    assert told(folder, *PYTHON, code, **hub.env) == []


HOLD = (
    "import mmap, random, time\n"
    "one = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    "one.madvise(mmap.MADV_MERGEABLE)\n"
    "one.write(random.Random(1).randbytes(2 << 20) * 2)\n"
    "deadline = time.monotonic() + 30\n"
    "while 'pagemerge-slab' not in open('/proc/self/maps').read():\n"
    "    assert time.monotonic() < deadline\n"
    "    time.sleep(0.1)\n"
    "time.sleep(6)\n"  # the hub tells of it, five seconds after the last time at the latest
)


@pytest.mark.parametrize("forks", [False, True])
def test_what_was_merged_is_told(hub: Hub, folder: Path, forks: bool) -> None:
    code = f"import os\nif os.fork() == 0:\n    exec({HOLD!r})\n    os._exit(0)\nos.wait()"
    (line,) = told(folder, *PYTHON, code if forks else HOLD, **hub.env)
    assert line.startswith(f"pagemerge run: {Path(sys.executable).name}: ")
    if forks:
        assert re.search(": in a process that it started, .* MB was merged, which saved ", line)
    else:
        assert re.search(": up to .* MB of its memory was merged, which saved .* MB$", line)


def test_all_memory_without_a_mark(hub: Hub, folder: Path) -> None:
    every = ["--all", "--", *PYTHON]
    malloc = HOLD.replace("one.madvise(mmap.MADV_MERGEABLE)\n", "")
    malloc = malloc.replace("one.write(random.Random(1).randbytes(2 << 20) * 2)", LISTS)
    (line,) = told(folder, *every, malloc, **hub.env)
    assert "memory was merged, which saved" in line
    (line,) = told(folder, "--all", "--", "true", **hub.env)
    assert line.endswith("it had too little memory (less than 4 MB), or ended too soon")
    unique = "import os, time; held = os.urandom(8 << 20); time.sleep(3)"
    (line,) = told(folder, *every, unique, **hub.env)
    assert "it held no pages for long that were equal to others" in line or "merged" in line


def test_who_finds_no_hub_is_told(folder: Path) -> None:
    """Not who has ended before that is known: a hub takes a moment to start."""
    wait = PRIVATE + "import time; time.sleep(4)"
    (line,) = told(folder, *PYTHON, wait, PAGEMERGE_SOCKET="/nonexistent/x")
    assert "no hub answers at /nonexistent/x" in line and "pagemerge daemon --socket" in line
    assert told(folder, *PYTHON, PRIVATE, PAGEMERGE_SOCKET="/nonexistent/x") == []


def test_no_line_goes_into_a_file_of_the_programs(folder: Path, tmp_path: Path) -> None:
    """It may have put any file where its standard error was."""
    code = "import os, sys; os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 2)"
    assert told(folder, *PYTHON, code, str(tmp_path / "mine")) == []
    assert (tmp_path / "mine").read_bytes() == b""
    assert told(folder, *PYTHON, "import os; os.close(2)") == []


def test_notes_of_who_was_killed_are_cleared_away(folder: Path) -> None:
    died = subprocess.Popen(["true"])
    died.wait()
    folder.mkdir(mode=0o700)
    for pid in (died.pid, os.getpid()):
        (folder / f"run-{pid}").touch()
    told(folder, "true")
    assert [it.name for it in folder.glob("run-*")] == [f"run-{os.getpid()}"]
    (folder / f"run-{os.getpid()}").unlink()


def test_a_program_that_cannot_start_leaves_no_note(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/where\n")
    broken.chmod(0o755)
    with pytest.raises(AssertionError, match="is missing"):
        told(folder, str(broken))


def test_the_cure_is_the_programs_own_switch(folder: Path, tmp_path: Path) -> None:
    vm = tmp_path / "qemu-system-x86_64"
    vm.write_text(f"#!{sys.executable}\n")
    vm.chmod(0o755)
    (line,) = told(folder, str(vm))
    assert "nothing of qemu-system-x86_64 was merged" in line
    assert "-machine mem-merge=on" in line


def test_quiet_says_nothing(folder: Path) -> None:
    """Nor does what a program starts by another ``pagemerge run``."""
    folder.mkdir()
    quiet = [*RUN, "--quiet", "--", *PYTHON, "pass"]
    (line,) = told(folder, "--", "sh", "-c", '"$@"; exit 0', "sh", *quiet)
    assert "nothing of sh was merged" in line
