"""The history of a writer that is killed, that has no room, and that others read meanwhile."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pagemerge.watch.history import Bounds, History
from tests.conftest import missing
from tests.support.commands import NOBODY, command
from tests.unit.watch.moments import moment, row, user

START = 1_800_000_000.0
KILLS = 200
BOUNDS = Bounds(most_bytes=1 << 20)


def write_for_ever(path: Path, first: int, told: int) -> None:
    """Record a moment each 20 s of its time, and tell which after each."""
    with History(path, bounds=BOUNDS) as one:
        at = first
        while True:
            rows = tuple(row(pid, guest=os.urandom(60).hex()) for pid in range(40))
            one.add(moment(START + at, user=user(saved_bytes=at), rows=rows))
            os.write(told, b"%d\n" % at)
            at += 20


@contextmanager
def writer(path: Path, first: int) -> Iterator[tuple[int, int]]:
    """A process that records; yields its pid and what it tells, and kills it at the end."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            write_for_ever(path, first, tell)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        yield pid, told
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)


def last_told(told: int, data: bytes) -> int | None:
    """The last moment that a writer, which has been killed, has told of; ``data``: its start."""
    while piece := os.read(told, 1 << 16):
        data += piece
    lines = data.split(b"\n")[:-1]
    return int(lines[-1]) if lines else None


def test_a_writer_killed_at_any_moment_leaves_a_whole_history(tmp_path: Path) -> None:
    draw = random.Random(15)
    path, at, kept = tmp_path / "0", 0, 0
    for number in range(KILLS):
        if number % 20 == 0:  # so that the making of a file is hit, too
            path, at = tmp_path / str(number), 0
        with writer(path, at) as (pid, told):
            seen = os.read(told, 1 << 16) if number % 4 else b""
            time.sleep(draw.random() * 0.03)
            os.kill(pid, signal.SIGKILL)
            last = last_told(told, seen)
        if not path.exists():
            assert last is None
            continue
        with History(path, read_only=number % 2 == 0, bounds=BOUNDS) as one:
            (found,) = one._file.execute("PRAGMA integrity_check").fetchone()
            assert found == "ok"
            moments = list(one.read())
        if last is not None:
            # It may have recorded one more, and not told it.
            assert moments[-1].time - START in (last, last + 20)
            at = last + 40
            kept += 1
    assert kept > KILLS // 2


def test_many_read_while_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "history"
    History(path).close()
    with writer(path, 0) as (_, told):
        os.read(told, 1)
        readers = [
            subprocess.Popen(
                [sys.executable, "-c", READ, str(path)], stdout=subprocess.PIPE, text=True
            )
            for _ in range(8)
        ]
        counts = [int(reader.communicate(timeout=60)[0]) for reader in readers]
    assert all(reader.returncode == 0 for reader in readers)
    assert all(count > 0 for count in counts)


READ = """
import sys
from pathlib import Path
from pagemerge.watch.history import History
seen = 0
for _ in range(20):
    with History(Path(sys.argv[1]), read_only=True) as one:
        times = [it.time for it in one.read()]
        assert times == sorted(times)
        assert one.series()
        seen += len(times)
print(seen)
"""

FILL = """
import os, sys
from pathlib import Path
from pagemerge.errors import PagemergeError
from pagemerge.watch.history import History
from tests.unit.watch.moments import moment, row, user
with History(Path(sys.argv[1])) as one:
    for at in range(100_000):
        rows = tuple(row(pid, guest=os.urandom(60).hex()) for pid in range(40))
        try:
            one.add(moment(1_800_000_000.0 + at, user=user(), rows=rows))
        except PagemergeError as error:
            print(error)
            break
    Path(sys.argv[1]).with_name("ballast").unlink()
    one.add(moment(1_800_000_001.0 + at, user=user()))
    print(len(one.series()))
"""


def test_a_full_disk_loses_nothing_that_was_recorded(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=2m none {tmp_path}"
    probe = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        missing("mounts", f"mounts cannot be changed here: {probe.stderr.strip()}")
    ballast = f"head -c 200000 /dev/zero > {tmp_path}/ballast"
    before = ["unshare", "--mount", "sh", "-c", f'{script} && {ballast} && exec "$@"', "sh"]
    done = subprocess.run(
        [*before, sys.executable, "-c", FILL, str(tmp_path / "history")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    told, count = done.stdout.splitlines()
    assert "make room on its disk" in told
    assert int(count) > 20


@pytest.mark.requires("root")
def test_another_user_reads_what_it_may(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    try:
        folder.chmod(0o755)
        path = folder / "history"
        with History(path) as one:
            one.add(moment(START, user=user()))
        assert "belongs to another user" in as_nobody(path)
        path.chmod(0o644)
        assert as_nobody(path) == "1\n"  # no log, and a folder that it may not write
        with History(path) as one:
            one.add(moment(START + 1, user=user()))
            assert as_nobody(path) == "2\n"
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def as_nobody(path: Path) -> str:
    """What another user finds."""
    script = f"""
import os, sys, urllib.parse, msgspec
from pathlib import Path
from pagemerge.errors import PagemergeError
from pagemerge.watch.history import History
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
try:
    print(len(list(History(Path(sys.argv[1]), read_only=True).read())))
except PagemergeError as error:
    print(error)
"""
    return subprocess.check_output([sys.executable, "-c", script, str(path)], text=True)


def test_the_verb_tells_what_was_recorded(tmp_path: Path) -> None:
    path, now = tmp_path / "history", time.time()
    with History(path) as one:
        for at in range(60):
            one.add(moment(now - 60 + at, user=user(saved_bytes=at * 1_000_000)))
        told = command("history", "--file", str(path))  # while it is written
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.startswith("Merging saves 59.0 MB now. Over 59 s it saved 29.5 MB on")
    lines = command("history", "--since", "30s", "--csv", PAGEMERGE_HISTORY=str(path)).stdout
    rows = list(csv.DictReader(lines.splitlines()))
    assert 20 < len(rows) <= 30
    assert rows[-1]["saved_bytes"] == rows[-1]["user_saved_bytes"] == "59000000"
    assert rows[-1]["kernel_saved_bytes"] == ""
    found = json.loads(command("history", "--json", "--file", str(path)).stdout)
    assert found["summary"]["highest_saved_bytes"] == 59_000_000
    assert len(found["moments"]) == 60 and found["moments"][0]["user"]["saved_bytes"] == 0
    picture = command("history", "--chart", "--file", str(path), PYTHONIOENCODING="ascii")
    assert picture.returncode == 0 and picture.stdout.isascii() and "##" in picture.stdout


def test_the_verb_says_why_it_shows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history"
    told = command("history", PAGEMERGE_HISTORY=str(path))
    assert told.returncode == 2 and f"there is no history at {path}" in told.stderr
    with History(path) as one:
        one.add(moment(time.time() - 600, user=user()))
        told = command("history", "--file", str(path), "--since", "1m")
    assert told.returncode == 1
    assert "nothing was recorded in the last 1m: the last moment is of" in told.stderr
    path.write_bytes(b"\x1b[2J" * 5000)
    told = command("history", "--file", str(path))
    assert told.returncode == 1 and "is damaged, or no history" in told.stderr
    assert "\x1b" not in told.stderr
    told = command("history", "--since", "soon", "--file", str(path))
    assert told.returncode == 2 and "'soon' is not a time" in told.stderr
