"""``pagemerge top`` as people run it: in a terminal, in a pipe, on this host, and what it costs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from textual.pilot import Pilot

from pagemerge.demo.dialog import Child
from pagemerge.linux.ksm import process_ksm
from pagemerge.watch.top.app import Top
from pagemerge.watch.top.source import Live
from tests.conftest import Spawn
from tests.support.attaching import merge_any
from tests.support.commands import PAGEMERGE, command
from tests.support.driving import drive, text, until
from tests.support.hostile import assert_plain
from tests.support.hubs import Hub
from tests.support.moments import recording, write
from tests.support.screens import screen

UTC = {"TZ": "UTC"}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return write(tmp_path / "record", recording())


def once(*words: object, **env: str) -> str:
    done = subprocess.run(
        [*PAGEMERGE, "top", "--once", *map(str, words)],
        env={**os.environ, **UTC, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert_plain(done.stdout)
    return done.stdout


def test_once_begins_with_the_answer_and_has_the_figures_of_the_view(record: Path) -> None:
    told = once("--replay", record)
    assert told.startswith("Merging saves 6.37 GB in 21 processes (hub 1.65 GB, ksmd 4.72 GB).\n")
    assert "user engine: running: 1.6 GB saved for 12 clients" in told
    rows = [line for line in told.split("\n") if re.match(r" *\d", line) and " vm-" in line]
    assert rows[0].startswith(" 1.5 GB   1.9 GB   3.9 GB ")
    assert rows[0].split()[6:] == ["-", "<1%", "1200", "kernel", "libvirt-qemu", "vm-01"]
    assert "1607 node: its pages change all the time." in told
    assert "22:14:11 8.1 GB to save" in told


def test_once_sorts_and_groups(record: Path) -> None:
    told = once("--replay", record, "--group-by", "unit", "--sort", "name")
    units = re.findall(r"[\w-]+\.(?:service|scope) *$", told, re.M)
    assert units == sorted(units) and len(units) == 6


def test_once_fits_80_columns(record: Path) -> None:
    argv = [*PAGEMERGE, "top", "--once", "--replay", str(record)]
    with screen(*argv[3:], columns=80) as shown:
        assert shown.ended() == 0
        time.sleep(0.1)
        lines = re.sub(r"\x1b\[[\d;]*m", "", shown.output.decode()).split("\r\n")
    assert len(lines) > 30
    assert max(map(len, lines)) <= 80


def test_once_needs_no_textual(record: Path) -> None:
    code = "import sys; sys.modules['textual'] = None; from pagemerge.cli import main; main()"
    argv = [sys.executable, "-c", code, "top", "--replay", str(record)]
    done = subprocess.run([*argv, "--once"], capture_output=True, text=True, timeout=60)
    assert "Merging saves 6.37 GB" in done.stdout, done.stderr


def test_without_textual_the_view_says_what_to_install(record: Path) -> None:
    code = (
        "import sys; sys.modules['textual'] = None; from pagemerge.cli import main;"
        f"sys.exit(main(['top', '--replay', {str(record)!r}]))"
    )
    with screen(python=["-c", code]) as shown:
        assert shown.ended() == 77
        assert b'pip install "pagemerge[tui]"' in shown.output


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 2, "needs a terminal"),
        (["--once", "--replay", "/none"], 2, "cannot read the recording /none"),
        (["--once", "--replay", "/dev/null"], 1, "is empty"),
        (["--once", "--replay", "/proc/self/stat"], 1, "line 1 is not a moment"),
        (["--every", "0"], 2, "not a time from 0.1 to 3600 seconds"),
        (["--sort", "pid"], 2, "invalid choice"),
    ],
)
def test_wrong_usage_is_told(words: list[str], status: int, told: str) -> None:
    done = command("top", *words)
    assert done.returncode == status
    assert told in done.stderr and done.stdout == ""


def test_the_view_in_a_terminal(record: Path) -> None:
    with screen("top", "--replay", record, "--every", "0.1", env=UTC) as shown:
        shown.wait_for("Merging saves")
        shown.wait_for("The recording has ended")
        shown.press("g")
        shown.wait_for("GUEST")
        shown.resize(60, 15)
        shown.press("?")
        shown.wait_for("turn the order around")
        shown.press("\x1b")
        time.sleep(0.3)  # a terminal's escape key is told from a sequence by a pause
        shown.press("q")
        assert shown.ended() == 0
        assert b"\x1b[?1049l" in shown.output  # the screen before it is back


@pytest.mark.parametrize(
    ("term", "sequence"),
    [("xterm-256color", rb"\x1b\[[\d;]*38;5;\d"), ("linux", rb"\x1b\[[\d;]*3[0-7]")],
)
def test_it_uses_the_colors_that_the_terminal_has(record: Path, term: str, sequence: bytes) -> None:
    with screen("top", "--replay", record, env={"TERM": term, **UTC}) as shown:
        shown.wait_for("Quit")
        shown.press("q")
        assert shown.ended() == 0
        assert re.search(sequence, shown.output)
        assert b"38;2;" not in shown.output


def test_a_dumb_terminal_is_told_of_once(record: Path) -> None:
    with screen("top", "--replay", record, env={"TERM": "dumb"}) as shown:
        assert shown.ended() == 2
        assert b"use --once" in shown.output


def test_200_rows_take_less_than_5_percent_of_a_core(tmp_path: Path) -> None:
    seconds = 6.0
    path = write(tmp_path / "record", recording(30, 200))
    with screen("top", "--replay", path) as shown:
        shown.wait_for("Quit")
        time.sleep(2)
        before, began = shown.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        spent = (shown.cpu_seconds() - before) / (time.monotonic() - began)
        shown.press("q")
        assert shown.ended() == 0
    assert spent < 0.05, f"{spent:.1%} of a core"


def test_it_shows_this_host(hub: Hub, victim: Spawn) -> None:
    member = victim("member", env=hub.env)
    member.ask("copy", pages=1024, seed=1)
    told = once("--every", "0.2", PAGEMERGE_SOCKET=str(hub.socket))
    assert re.search(rf"^ .*\b{member.pid}\b.*\buser\b", told, re.M), told
    with screen("top", env={"PAGEMERGE_SOCKET": str(hub.socket)}) as shown:
        shown.wait_for(str(member.pid))
        shown.press("q")
        assert shown.ended() == 0


@pytest.mark.requires("kernel", "root")
def test_a_attaches_and_d_detaches_a_real_process(victim: Spawn) -> None:
    child: Child = victim("pages", "seed", "1", "pages", "0", "0", "2000")
    assert not merge_any(child.pid)

    async def script(pilot: Pilot[None]) -> None:
        def shows(word: str) -> bool:
            return word in text(pilot)

        await until(pilot, lambda: shows("hub"))
        await pilot.press("a")
        await until(pilot, lambda: shows("Attach"))
        await pilot.press(*["backspace"] * 8, *str(child.pid), "enter")
        await until(pilot, lambda: merge_any(child.pid))
        await until(pilot, lambda: shows("ksmd may now merge the memory of 1 process"))
        await pilot.press("slash", *str(child.pid), "enter")
        await until(pilot, lambda: shows(f"Process {child.pid} "))
        await pilot.press("d")
        await until(pilot, lambda: shows("Detach python"))
        await pilot.press("enter")
        await until(pilot, lambda: not merge_any(child.pid))

    with Live() as source:
        drive(Top(source, 0.3), script, (120, 40))
    assert (process_ksm(child.pid).merging_pages or 0) == 0


def test_a_process_that_has_ended_is_not_attached() -> None:
    from pagemerge.watch.top.acting import carry_out, started

    child = subprocess.Popen(["sleep", "60"])
    start = started(child.pid)
    child.kill()
    child.wait()
    answer = carry_out("attach", child.pid, start)
    assert not answer.good
    assert answer.text == f"There is no process {child.pid} any more."
