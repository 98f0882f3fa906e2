"""The verbs beside real processes whose names, arguments and mapped files are hostile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.find.engine import AGENT
from pagemerge.linux import maps, process
from pagemerge.linux.identity import Identities
from pagemerge.linux.text import plain
from tests.support.building import VICTIMS
from tests.support.commands import PAGEMERGE
from tests.support.hostile import assert_plain, text_of

NAMES = [
    *(
        b"\x1b[2Jhi\xff",
        b"a\nb) S 1 (\\n",
        b"a\rb\x0bc\x0cd",
        b"\xc2\x85\xe2\x80\xa8x",
        b"[red]:smile:x",
    ),
    *(b"\xe2\x80\xaeabc", b" ksmtuned", b"\xff" * 15),
]
PATH = b"a\rb\x0b\x0c\x1c\xc2\x85\xe2\x80\xa8\xff \n0::(deleted)\x1b[2J"


@pytest.fixture(params=NAMES, ids=[plain(name) for name in NAMES])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, bytes]]:
    """The pid and the name of such a process."""
    settings = tmp_path / "settings"
    mapped = os.path.join(os.fsencode(tmp_path), PATH)  # noqa: PTH118
    settings.write_text(f"{request.param.hex()}\n{mapped.hex()}\n")
    argv: list[str | bytes] = [sys.executable, str(VICTIMS / "hostile.py"), str(settings), PATH]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield process.pid, request.param
        finally:
            process.kill()


def said(*words: object, **env: str) -> tuple[str, int]:
    """What ``pagemerge WORDS`` prints on both streams, and its exit status."""
    argv = [*PAGEMERGE, *map(str, words)]
    done = subprocess.run(
        argv, capture_output=True, timeout=60, check=False, env={**os.environ, **env}
    )
    assert b"Traceback" not in done.stderr
    shown = (done.stdout + done.stderr).decode()
    assert_plain(shown)
    return shown, done.returncode


def rows(shown: str, pid: int) -> list[str]:
    """Those of the table: what is said below it has a colon behind the name."""
    lines = (line for line in shown.split("\n") if ": " not in line)
    return [line for line in lines if line.split()[:1] == [str(pid)]]


def test_what_is_read_is_what_is_so(victim: tuple[int, bytes]) -> None:
    pid, name = victim
    assert process.name(pid) == process.status(pid).name == process.stat(pid).name == text_of(name)
    assert process.arguments(pid)[-1] == text_of(PATH)
    written = text_of(PATH.replace(b"\n", b"\\012"))
    assert any(it.path.endswith(written) for it in maps.mappings(pid))
    assert any(who.pid == pid and who.name == text_of(name) for who in Identities().present())
    assert AGENT not in {process.name(pid, thread=it) for it in process.threads(pid)}


def test_scan(victim: tuple[int, bytes]) -> None:
    pid, name = victim
    shown, status = said("scan", pid)
    assert status == 0
    (row,) = rows(shown, pid)
    assert plain(name).split()[0] in row
    shown, status = said("scan", "--all")
    assert status == 0
    assert len(rows(shown, pid)) == 1
    shown, status = said("scan", "--json", pid)
    (found,) = json.loads(shown)["processes"]
    assert found["pid"] == pid


def test_it_is_found_by_its_name(victim: tuple[int, bytes]) -> None:
    pid, name = victim
    argv: list[str | bytes] = [*PAGEMERGE, "scan", b"--", name]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    assert rows(done.stdout.decode(), pid)


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "--json"], ["status"]])
def test_other_verbs_go_on(victim: tuple[int, bytes], words: list[str], tmp_path: Path) -> None:
    shown, status = said(*words, PAGEMERGE_SOCKET=str(tmp_path / "nobody"))
    assert status == (1 if words == ["status"] else 0), shown


def test_a_locale_that_can_write_nothing_but_ascii(victim: tuple[int, bytes]) -> None:
    pid, _ = victim
    poor = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}
    for words in (["scan", pid], ["doctor"], ["scan", "--sort", "\udcff\u2028", "é"]):
        shown, status = said(*words, **poor)
        assert shown.isascii()
        assert status in (0, 2)


@pytest.mark.requires("kernel")
@pytest.mark.parametrize("words", [["attach", "--across-users"], ["detach"]])
def test_attach_and_detach(victim: tuple[int, bytes], words: list[str]) -> None:
    """Each has its row, whatever comes of it; the core cannot stop a process yet whose name is not
    UTF-8, and says so of that process alone."""
    pid, name = victim
    other = os.getppid()
    shown, status = said(*words, "--dry-run", pid, other)
    assert len(rows(shown, pid)) == len(rows(shown, other)) == 1, shown
    if b"\xff" not in name:
        assert status == 0, shown
    if words[0] == "attach":
        shown, status = said(*words, "--select", "--dry-run", pid)
        assert status in (0, 1), shown
