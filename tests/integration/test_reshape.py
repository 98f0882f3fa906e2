"""Programs that reshape what was merged, by legal calls at awkward moments: nothing goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.building import compile_victim
from tests.support.hubs import Hub

DEADLINE = 90
"""Seconds; a program that takes longer hangs."""

WAYS = [
    *["grow", "watch", "lock", "atfork", "key", "exit", "signal", "limit", "room", "files"],
    *["cancel", "last", "errno", "take"],
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


@pytest.mark.parametrize("way", ["grow", "lock", "signal"])
def test_threads_that_are_stopped(hub: Hub, program: Path, way: str) -> None:
    assert outcome(hub, "park", str(program), way) == "ok"


def test_a_constructor_that_marks_memory(hub: Hub, program: Path) -> None:
    """Handlers of forks are registered in another order then."""
    assert outcome(hub, "move", str(program.with_name("constructed")), "constructed") == "ok"
