"""Programs that reshape what was merged, by legal calls at awkward moments: nothing goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import Hub
from tests.support.talker import Talker, talking

DEADLINE = 90
"""Seconds; a program that takes longer hangs."""

WAYS = [
    *["grow", "watch", "lock", "atfork", "key", "exit", "signal", "limit", "room", "files"],
    *["cancel", "last", "errno", "take", "unseen"],
]

pytestmark = pytest.mark.requires("uffd")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require("cc")
    folder = tmp_path_factory.mktemp("reshaper")
    library = compile_victim("constructor.c", folder / "libconstructor.so", "-shared", "-fPIC")
    compile_victim("reshaper.c", folder / "reshaper", "-pthread")
    linked = ["-pthread", "-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{folder}"]
    compile_victim("reshaper.c", folder / "constructed", *linked)
    return folder / "reshaper"


def outcome(hub: Hub, barrier: str, *argv: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pagemerge", "run", "--quiet", "--barrier", barrier, "--", *argv],
        env={**os.environ, **hub.env},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    return f"{done.stdout}{done.stderr}".strip()


@pytest.mark.parametrize("barrier", ["move", "write-protect"])
@pytest.mark.parametrize("way", WAYS)
def test_what_was_merged_is_reshaped(hub: Hub, program: Path, way: str, barrier: str) -> None:
    assert outcome(hub, barrier, str(program), way) == "ok"


SPLITS = """
import ctypes, random, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.madvise.argtypes = libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
at = libc.mmap(None, 1024 << 12, 3, 0x22, -1, 0)
wanted = random.Random(7).randbytes(1024 << 12)
ctypes.memmove(at, wanted, len(wanted))
assert libc.madvise(at, 1024 << 12, 12) == 0
print("ready", flush=True)
for line in sys.stdin:
    first, pages, protection = {"split": (512, 1, 3), "close": (0, 700, 1), "open": (0, 700, 3)}[
        line.strip()
    ]
    assert libc.mprotect(at + (first << 12), pages << 12, protection) == 0
    print("right" if ctypes.string_at(at, 1024 << 12) == wanted else "wrong", flush=True)
"""


@pytest.fixture
def start(hub: Hub) -> Iterator[Callable[[], Talker]]:
    """Starts programs that hold the same 1024 pages."""
    run = [sys.executable, "-m", "pagemerge", "run", "--quiet", "--", sys.executable, "-c", SPLITS]
    with ExitStack() as opened:

        def begin() -> Talker:
            target = opened.enter_context(talking(*run, env=hub.env))
            assert target.hear() == "ready"
            return target

        yield begin


def look(hub: Hub) -> None:
    """Wait until the hub has looked at all regions again."""
    scans = hub.status().full_scans
    hub.until(lambda: hub.status().full_scans > scans + 4, "look at the new regions")


def test_what_was_merged_in_a_region_that_is_split_is_shared_as_before(
    hub: Hub, start: Callable[[], Talker]
) -> None:
    """The program protects one page as it is protected: the agent then has two regions."""
    programs = [start(), start()]
    hub.until(lambda: hub.status().pages_sharing >= 1024, "merge them")
    before = hub.status()
    assert [it.tell("split") for it in programs] == ["right", "right"]
    look(hub)
    # The agent restores the page that is protected, and the hub may merge it again.
    after = hub.status()
    assert after.pages_sharing >= before.pages_sharing - 2
    assert after.store_bytes >= before.store_bytes
    programs.append(start())
    hub.until(lambda: hub.status().pages_sharing >= 2 * 1023, "merge the third one")
    assert hub.status().store_bytes <= before.store_bytes + 2 * 4096, "it got a copy of its own"
    assert [it.tell("split") for it in programs] == ["right"] * 3


def test_merged_memory_that_is_read_only_for_a_while_is_shared_as_before(
    hub: Hub, start: Callable[[], Talker]
) -> None:
    """Nothing is merged there meanwhile, but what is merged stays so, and counts."""
    programs = [start(), start()]
    hub.until(lambda: hub.status().pages_sharing >= 1024, "merge them")
    before = hub.status()
    for way in ("close", "open"):
        assert [it.tell(way) for it in programs] == ["right", "right"]
        look(hub)
        hub.until(lambda: hub.status().pages_sharing == before.pages_sharing, f"count it ({way})")
        assert hub.status().store_bytes == before.store_bytes
        programs.append(start())
        hub.until(lambda: hub.status().pages_sharing >= before.pages_sharing + 1024, "merge it")
        assert hub.status().store_bytes == before.store_bytes, "it got a copy of its own"
        last = programs.pop().process
        last.kill()
        last.wait()
        hub.until(lambda: len(hub.status().clients) == 2, "see it go")


@pytest.mark.parametrize("way", ["grow", "lock", "signal"])
def test_threads_that_are_stopped(hub: Hub, program: Path, way: str) -> None:
    assert outcome(hub, "park", str(program), way) == "ok"


def test_a_constructor_that_marks_memory(hub: Hub, program: Path) -> None:
    """Handlers of forks are registered in another order then."""
    assert outcome(hub, "move", str(program.with_name("constructed")), "constructed") == "ok"
