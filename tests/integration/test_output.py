"""Whoever reads the output, or does not: no command fails halfway, and each says what was lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Spawn
from tests.support.commands import PAGEMERGE
from tests.support.hubs import Hub

VERBS = ["--help", "doctor", "scan PID", "scan --json PID", "status"]


@pytest.fixture(params=VERBS)
def words(request: pytest.FixtureRequest, hub: Hub) -> list[str]:
    """A command that prints something, and can do its work here."""
    told = str(request.param).replace("PID", str(os.getpid())).split()
    return [*told, "--socket", str(hub.socket)] if told == ["status"] else told


def ran(words: list[str], shell: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """The command, with the redirections of ``shell``; fails if it shows a fault of ours."""
    argv = ["sh", "-c", f'exec "$@" {shell}', "sh", *PAGEMERGE, *words]
    done = subprocess.run(
        argv, capture_output=True, check=False, timeout=60, env={**os.environ, **env}
    )
    for fault in (b"Traceback", b"Exception ignored", b"has a fault"):
        assert fault not in done.stderr, done.stderr.decode(errors="replace")
    return done


def test_no_command_depends_on_who_reads(words: list[str]) -> None:
    good = ran(words).returncode  # doctor may find that this host can do nothing
    for encoding in ("ascii", "latin-1"):
        done = ran(words, PYTHONIOENCODING=encoding)
        assert done.returncode == good
        assert done.stdout.decode(encoding)
    for shell, reason in ((">/dev/full", b"No space left"), (">&-", b"Bad file descriptor")):
        done = ran(words, shell)
        assert done.returncode == (good or 1)
        assert done.stderr.startswith(b"pagemerge")
        assert done.stderr.count(b"\n") == 1
        assert reason in done.stderr
    for shell in ("2>/dev/full", "<&- 2>&-"):
        done = ran(words, shell)
        assert done.returncode == good
        assert done.stdout


def test_a_reader_that_has_gone_is_no_failure(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*PAGEMERGE, *words], stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode in (0, 77)


def test_a_pipe_that_does_not_block_gets_all() -> None:
    code = "from pagemerge.cli import streams; streams.guard(); print('x' * 200_000)"
    read, write = os.pipe()
    os.set_blocking(write, False)  # and has room for less than that
    with os.fdopen(read, "rb") as pipe:
        argv = [sys.executable, "-c", code]
        with subprocess.Popen(argv, stdout=write, stderr=subprocess.PIPE) as program:
            os.close(write)
            said = pipe.read()
            assert program.stderr is not None
            assert program.stderr.read() == b""
    assert said == b"x" * 200_000 + b"\n"


@pytest.mark.parametrize("shell", [">&-", "2>/dev/full", "2>&-"])
def test_an_error_that_cannot_be_said_is_still_a_status(shell: str) -> None:
    assert ran(["scan", "--all", "nonsense"], shell).returncode == 2
    assert ran(["nonsense"], shell).returncode == 2


def test_files_do_not_get_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = (
        "import os, sys; from pagemerge.cli import streams; streams.guard();"
        "number = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT);"
        "os.write(number, str(number).encode())"
    )
    closed = 'exec "$@" <&- >&- 2>&-'
    argv = ["sh", "-c", closed, "sh", sys.executable, "-c", code, str(said)]
    subprocess.run(argv, check=True, timeout=60)
    assert int(said.read_text()) > 2


@pytest.mark.requires("uffd")
def test_a_program_under_run_ends_with_its_reader(hub: Hub, tmp_path: Path) -> None:
    script = f'"$@" run --socket {hub.socket} -- yes | head -1'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *PAGEMERGE], capture_output=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"y\n", b"")


def test_a_dry_run_ends_with_its_reader(hub_socket: Path, victim: Spawn) -> None:
    argv = [*PAGEMERGE, "daemon", "--dry-run", "--socket", str(hub_socket)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        victim("member", env={"PAGEMERGE_AUTOSTART": "0"}).ask("fill", pages=64, seed=1)
        second = victim("member", env={"PAGEMERGE_AUTOSTART": "0"})
        second.ask("fill", pages=64, seed=1)
        assert daemon.stdout.readline()
        daemon.stdout.close()
        second.ask("fill", pages=96, seed=1)  # something new to tell
        assert daemon.wait(40) == 0
