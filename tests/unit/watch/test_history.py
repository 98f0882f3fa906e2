"""The history: what it gives back, what it keeps, and files that are none."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemerge.errors import PagemergeError, UsageError
from pagemerge.watch import history, history_file
from pagemerge.watch.history import MOST_LOG, MOST_ROWS, MOST_TEXT, Bounds, History
from pagemerge.watch.model import Decision, Moment
from tests.unit.watch.moments import kernel, moment, row, user

START = 1_800_000_000.0
KEPT = Path(__file__).parent / "kept" / "history-1.sqlite"
"""A history as version 1 wrote it."""


def saving(seconds: float, saved: int = 4096, **given: object) -> Moment:
    return moment(START + seconds, user=user(saved_bytes=saved), **given)


def files(path: Path) -> int:
    """Bytes of the file and its log."""
    logs = (path, Path(f"{path}-wal"), Path(f"{path}-shm"))
    return sum(it.stat().st_size for it in logs if it.exists())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "history.sqlite"


def test_moments_come_back_whole(path: Path) -> None:
    decisions = tuple(
        Decision(START + at, f"{at}.0 MB to go", {"run": 1, "advisor_mode": "none"})
        for at in (1, 2)
    )
    given = [
        saving(0, rows=(row(1), row(2, guest="web", why="busy"))),
        saving(3, kernel=kernel(saved_bytes=8192), decisions=decisions),
        saving(4),
    ]
    with History(path) as one:
        for it in given:
            one.add(it)
        with History(path, read_only=True) as other:
            assert list(other.read()) == given
            assert other.series() == [(START, 4096), (START + 3, 12288), (START + 4, 4096)]
            assert other.totals() == {"progress": 2}
            assert list(other.read(START + 2, START + 3)) == [
                msgspec.structs.replace(given[1], decisions=decisions[1:])
            ]
            assert list(other.read(START + 5)) == []
    assert path.stat().st_mode & 0o777 == 0o600
    with History(path, read_only=True) as again:
        assert list(again.read()) == given


@pytest.mark.parametrize("gone", ["history.sqlite*", "*", "history.sqlite", "*-wal", "*.lock"])
def test_files_that_are_deleted_while_it_records(
    path: Path, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    with History(path) as one:
        one.add(saving(0))
        reader = History(path, read_only=True)
        assert reader.series() == [(START, 4096)]
        for file in path.parent.glob(gone):
            file.unlink()
        one.add(saving(1))
        one.add(saving(2))
        reader.close()
        assert caplog.messages == [f"{path} was deleted or replaced: what is there now is used"]
        with pytest.raises(PagemergeError, match="another process records"):
            History(path)
        with History(path, read_only=True) as other:
            times = [when - START for when, _ in other.series()]
    assert times == ([0, 1, 2] if gone in ("*-wal", "*.lock") else [1, 2])
    with pytest.raises(PagemergeError, match="closed"):
        one.add(saving(3))


@pytest.mark.parametrize("logs_stay", [False, True])
def test_a_file_that_takes_its_place_while_it_records(path: Path, logs_stay: bool) -> None:
    saved = path.with_name("saved")
    with History(path) as one:
        one.add(saving(0))
        shutil.copy(KEPT, saved)
        saved.rename(path)
        if not logs_stay:
            for rest in ("-wal", "-shm"):
                Path(f"{path}{rest}").unlink()
        unused = path.with_name("unused")
        shutil.copy(KEPT, unused)
        with History(unused, read_only=True) as other:
            before = other.series()
        one.add(saving(50))
        with History(path, read_only=True) as other:
            assert other.series() == [*before, (START + 50, 4096)]
            assert len(list(other.read())) == len(before) + 1

        path.unlink()
        path.write_bytes(b"no database, and some other program's")
        for _ in "ab":
            with pytest.raises(PagemergeError, match="is damaged, or no history"):
                one.add(saving(51))
        assert path.read_bytes() == b"no database, and some other program's"
        path.unlink()
        one.add(saving(52))
        with History(path, read_only=True) as other:
            assert other.series() == [(START + 52, 4096)]


def test_a_new_file_takes_nothing_from_the_log_of_a_deleted_one(path: Path) -> None:
    """The process was killed, and the file deleted, but not its log."""
    pid = os.fork()
    if pid == 0:
        History(path).add(saving(0))
        os._exit(0)
    os.waitpid(pid, 0)
    assert Path(f"{path}-wal").stat().st_size
    path.unlink()
    with History(path) as one:
        one.add(saving(1))
        assert one.series() == [(START + 1, 4096)]


def test_hostile_texts_come_back_plain_and_short(path: Path) -> None:
    evil = row(1, name="\x1b[2J\udcff", guest="g" * 5000, cgroup="/\n" * 3000)
    told = Decision(START, "\x1b]0;x\a" * 100, {"k" * 900: "\udc80" * 900})
    with History(path) as one:
        one.add(saving(0, rows=(evil,), decisions=(told,) * 3000))
        (back,) = one.read()
        assert one.totals() == {"other": 3000}
    texts = [getattr(back.rows[0], name) for name in ("name", "guest", "cgroup")]
    texts += [back.decisions[0].reason, *back.decisions[0].knobs]
    assert all(it.isprintable() and len(it) <= MOST_TEXT for it in texts)
    assert back.rows[0].name == "\\x1b[2J\\xff"
    assert len(back.decisions) == history.MOST_DECISIONS


def test_the_rows_that_save_most_are_kept(path: Path) -> None:
    rows = tuple(row(pid, saved_bytes=pid * 4096) for pid in range(1, 300))
    with History(path) as one:
        one.add(saving(0, rows=rows))
        (back,) = one.read()
    assert [it.pid for it in back.rows] == list(range(300 - MOST_ROWS, 300))


def test_older_moments_are_thinned_and_keep_their_extremes(path: Path) -> None:
    with History(path) as one:
        for at in range(0, 3 * 3600, 5):
            one.add(saving(at, saved=1000 + at % 60))
        before = [seconds - START for seconds, _ in one.series() if seconds < START + 3600]
        assert {saved for _, saved in one.series(START, START + 3600)} == {1000, 1055}
        assert before == [it for at in range(0, 3600, 60) for it in (at, at + 55)]
        fresh = one.series(START + 3 * 3600 - 1800)
        assert len(fresh) == 360
        one.add(saving(9 * 86400))
        assert len(one.series(START, START + 3599)) == 12  # two of each ten minutes
        one.add(saving(31 * 86400))
        assert one.series()[0][0] == START + 9 * 86400


def test_what_was_not_thinned_when_the_writer_ended_is_thinned_later(path: Path) -> None:
    with History(path) as one:
        for at in range(0, 1200, 5):
            one.add(saving(at))
    with History(path) as one:
        one.add(saving(7200))
        assert len(one.series()) <= 2 * 20 + 1


def test_the_size_is_bounded(path: Path) -> None:
    bounds = Bounds(most_bytes=1 << 20, thinned=())
    rows = tuple(row(pid, guest=os.urandom(60).hex()) for pid in range(40))
    told = tuple(Decision(START, os.urandom(90).hex()) for _ in range(20))
    with History(path, bounds=bounds) as one:
        for at in range(800):
            one.add(saving(at, rows=rows, decisions=told))
            assert path.stat().st_size <= 1 << 20
        assert files(path) < 4 << 20
        kept = one.series()
        assert kept[-1][0] == START + 799 and len(kept) > 50
        assert one.decisions()[0].time >= START
        assert one.totals() == {"other": 16_000}
    smaller = Bounds(most_bytes=1 << 19, thinned=())
    with History(path, bounds=smaller) as one:
        assert list(one.read())[-1].time == START + 799
    assert path.stat().st_size <= 1 << 19


def test_a_reader_that_stays_does_not_let_the_log_grow(path: Path) -> None:
    rows = tuple(row(pid, guest=os.urandom(60).hex()) for pid in range(40))
    with History(path, bounds=Bounds(thinned=())) as one:
        one.add(saving(0))
        stuck = sqlite3.connect(path, isolation_level=None)
        stuck.execute("BEGIN")
        stuck.execute("SELECT count(*) FROM moments").fetchone()
        at = 0
        while not one.left_out:
            at += 1
            one.add(saving(at, rows=rows))
            assert at < 20_000
        assert MOST_LOG <= Path(f"{path}-wal").stat().st_size < MOST_LOG + (1 << 20)
        stuck.close()
        one.add(saving(at + 1))
        assert one.series()[-1][0] == START + at + 1
        assert one.left_out == 1


def test_a_clock_that_jumps_loses_nothing_at_once(path: Path) -> None:
    with History(path) as one:
        one.add(saving(100))
        one.add(saving(0))
        one.add(saving(50))
        assert [seconds - START for seconds, _ in one.series()] == [0, 50, 100]
        assert [it.time - START for it in one.read()] == [0, 50, 100]


def test_a_second_writer_is_refused(path: Path) -> None:
    with History(path) as one:
        with pytest.raises(PagemergeError, match="another process records in"):
            History(path)
        one.add(saving(0))
    with History(path) as one:
        assert len(one.series()) == 1


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bills (total REAL)")
    other.close()


def stranger(path: Path) -> None:
    """A database that calls its tables as we do."""
    with sqlite3.connect(path) as other:
        other.executescript(history_file.SCHEMA)
    other.close()


def newer(path: Path) -> None:
    History(path).close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {history_file.VERSION + 1}")
    other.close()


def text(path: Path) -> None:
    path.write_bytes(b"dear diary\n" * 1000)


def empty(path: Path) -> None:
    path.touch()


def torn(path: Path) -> None:
    with History(path) as one:
        for at in range(500):
            one.add(saving(at, rows=(row(at),)))
    data = bytearray(path.read_bytes())
    data[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    path.write_bytes(data)


def short(path: Path) -> None:
    with History(path) as one:
        for at in range(500):
            one.add(saving(at, rows=(row(at),)))
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


BAD: dict[Callable[[Path], None], str] = {
    foreign: "a database of another program",
    stranger: "a database of another program",
    newer: "has version 2",
    empty: "is damaged, or no history",
    text: "is damaged, or no history",
    torn: "is damaged, or no history",
    short: "is damaged, or no history",
}


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_another_file_is_refused_and_stays_as_it_is(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes()
    with pytest.raises(PagemergeError, match=BAD[make]) as caught:
        History(path)
    assert str(path) in str(caught.value)
    with pytest.raises(PagemergeError, match=BAD[make]), History(path, read_only=True) as one:
        list(one.read())
    assert path.read_bytes() == before
    log = Path(f"{path}-wal")  # a reader makes an empty one
    assert not log.exists() or log.stat().st_size == 0


def test_places_that_are_no_files_are_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for place in (tmp_path, fifo, Path("/dev/null")):
        for read_only in (True, False):
            with pytest.raises(UsageError, match="is no regular file"):
                History(place, read_only=read_only)
    with pytest.raises(UsageError, match="there is no history at"):
        History(tmp_path / "none", read_only=True)


@settings(max_examples=30)
@given(st.binary(max_size=300), st.sampled_from([b"detail", b"time", b"saved_bytes"]))
def test_any_value_in_a_table_ends_in_our_error(
    tmp_path_factory: pytest.TempPathFactory, value: bytes, column: bytes
) -> None:
    path = tmp_path_factory.mktemp("history") / "file"
    with History(path) as one:
        one.add(saving(0, decisions=(Decision(START, "x"),)))
    with sqlite3.connect(path) as other:
        other.execute(f"UPDATE moments SET {column.decode()} = ?", (value,))
    other.close()
    with History(path, read_only=True) as one:
        for read in (one.series, lambda: list(one.read())):
            try:
                assert len(list(read())) <= 1
            except PagemergeError as error:
                assert "is damaged" in str(error)


def test_a_bomb_is_not_unpacked(path: Path) -> None:
    import zlib

    with History(path) as one:
        one.add(saving(0))
    with sqlite3.connect(path) as other:
        other.execute("UPDATE moments SET detail = ?", (zlib.compress(b" " * (1 << 26), 9),))
    other.close()
    with History(path, read_only=True) as one, pytest.raises(PagemergeError, match="is damaged"):
        list(one.read())


def test_version_1_is_read(tmp_path: Path) -> None:
    """If this fails, ``model.Moment`` has changed: raise VERSION, and convert older files."""
    copy = tmp_path / "history"  # SQLite makes files beside it
    copy.write_bytes(KEPT.read_bytes())
    with History(copy, read_only=True) as one:
        moments = list(one.read())
    assert [it.saved_bytes for it in moments] == [4096, 12288]
    assert moments[1].rows[0].guest == "web" and moments[1].decisions[0].knobs == {"run": 1}


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PAGEMERGE_HISTORY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert history_file.default_path() == Path("/var/lib/pagemerge/history.sqlite")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file.default_path() == tmp_path / "pagemerge" / "history.sqlite"
    monkeypatch.setenv("HOME", "/home/mira")
    for relative in ("", "state"):
        monkeypatch.setenv("XDG_STATE_HOME", relative)
        expected = Path("/home/mira/.local/state/pagemerge/history.sqlite")
        assert history_file.default_path() == expected
    monkeypatch.setenv("PAGEMERGE_HISTORY", "/srv/it")
    assert history_file.default_path() == Path("/srv/it")


def test_a_clock_that_is_a_year_ahead_makes_nothing_too_old(path: Path) -> None:
    """The moments before it stay, and those after the clock was put right, too."""
    year, seconds = 365 * 86400.0, [0.0]
    with History(path, clock=lambda: seconds[0]) as opened:
        for at in range(200):
            seconds[0] = at * 10.0
            ahead = year if at in (100, 101) else 0.0
            opened.add(moment(time=1e9 + at * 10.0 + ahead))
        assert len(opened.series()) == 200
    with History(path, clock=lambda: seconds[0]) as again:
        again.add(moment(time=1e9 + 2000.0))
        assert len(again.series()) == 201
