"""The live view under a pilot: keys, hostile names, sources that fail, many rows, any size."""

from __future__ import annotations

import os
import threading
import time

import pytest
from msgspec.structs import replace
from rich.cells import cell_len
from textual.pilot import Pilot

from pagemerge.errors import PagemergeError
from pagemerge.watch.model import Decision, Moment
from pagemerge.watch.top.app import Top
from pagemerge.watch.top.feed import Feed
from pagemerge.watch.top.source import Ended
from tests.support.driving import drive, lines, rows, table, text, top, until, view
from tests.support.moments import BEGIN, recording

MOMENTS = recording()
ENEMIES = (
    "[red]x[/red]",
    "[@click=app.quit]y[/]",
    "\x1b[2J\x1b]0;t\x07",
    "日本語日本語日本語",
    "שלום עולם",
    "\u202eabc\u2066",
    "a\nb\r\x85c\u2028",
    "e\u0301" * 9,
    "👩‍👩‍👧" * 4,
    "\udcff\udc80",
    "\\[",
    "",
)


def test_the_answer_the_engines_and_the_rows_are_on_the_screen() -> None:
    async def script(pilot: Pilot[None]) -> None:
        shown = text(pilot)
        assert "Merging saves 6.37 GB in 21 processes (hub 1.65 GB, ksmd 4.72 GB)." in shown
        assert "Hub  running 1.6 GB saved for 12 clients; takes 359 MB, 1.2% of a core" in shown
        assert "ksmd running 4.7 GB saved; takes 21.0% of a core; 40 pages/s unshare" in shown
        assert "Memory: 33.8 GB of 64.0 GB" in shown and "Saved: 6.4 GB" in shown
        assert rows(pilot)[0].split()[:5] == ["1.5", "GB", "1.9", "GB", "3.9"]
        assert "Process 1200 (qemu-system-x86) of libvirt-qemu" in shown
        assert "8.1 GB to save in about 4.2 s of processor time" in shown

    drive(view(MOMENTS), script)


def test_keys_sort_group_and_filter() -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert "SAVED▼" in text(pilot)
        await pilot.press("s")
        assert "MERGED▼" in text(pilot)
        await pilot.press("S", "S")
        assert "NAME▲" in text(pilot)
        assert table(pilot).lines[0].name == "gunicorn"
        await pilot.press("r")
        assert "NAME▼" in text(pilot)
        assert table(pilot).lines[0].name == "vm-04"
        for kind, count in (("GUEST", 5), ("UNIT", 6), ("USER", 5)):
            await pilot.press("g")
            assert kind in text(pilot) and "COUNT" in text(pilot)
            assert len(rows(pilot)) == count
        await pilot.press("g", "slash", *"vm-0")
        assert len(rows(pilot)) == 4
        await pilot.press("q")  # a letter of the filter, not the end of the view
        assert "None of the 24 processes has 'vm-0q' in a name." in text(pilot)
        await pilot.press("backspace", "enter", "s")
        assert "SAVED▼" in text(pilot) and len(rows(pilot)) == 4
        await pilot.press("escape")
        assert len(table(pilot).lines) == 24

    drive(view(MOMENTS), script)


def test_the_selected_line_stays_selected_while_lines_move() -> None:
    given = iter(MOMENTS[-2:])

    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("down", "j", "j", "k")
        selected = table(pilot).selected
        assert selected is not None and table(pilot).place == (3, 24)
        await pilot.press("r")
        again = table(pilot).selected
        assert again is not None and again.key == selected.key
        assert table(pilot).place[0] > 15
        assert f"Process {selected.pid} " in text(pilot)
        await pilot.press("end")
        assert table(pilot).place == (24, 24)
        await pilot.press("pageup", "home")
        assert table(pilot).place == (1, 24)

    drive(Top(lambda: next(given), 3600, past=MOMENTS[:-2]), script)


def test_a_line_that_has_gone_hands_the_selection_to_the_next_one() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("end")
        last = table(pilot).selected
        assert last is not None
        kept = tuple(row for row in MOMENTS[-1].rows if row.pid != last.pid)
        top(pilot).post_message(Top.Came(replace(MOMENTS[-1], rows=kept)))
        await until(pilot, lambda: table(pilot).place == (23, 23))
        top(pilot).post_message(Top.Came(replace(MOMENTS[-1], rows=())))
        await until(pilot, lambda: table(pilot).place == (0, 0))
        assert "No process has mergeable memory" in text(pilot)
        assert "Nothing is selected." in text(pilot)
        await pilot.press("down", "up", "end")

    drive(view(MOMENTS), script)


def test_a_click_selects_and_sorts() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.click("#table", offset=(20, 3))
        assert table(pilot).place == (3, 24)
        await pilot.click("#table", offset=(14, 0))
        assert "MERGED▼" in text(pilot)
        await pilot.click("#table", offset=(14, 0))
        assert "MERGED▲" in text(pilot)

    drive(view(MOMENTS), script)


def test_while_it_is_paused_it_asks_for_nothing() -> None:
    asked = []

    def source() -> Moment:
        asked.append(time.monotonic())
        return MOMENTS[min(len(asked), len(MOMENTS) - 1)]

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(asked) > 2)
        await pilot.press("p")
        assert "PAUSED" in lines(pilot)[0]
        await pilot.pause(0.1)  # one that was under way may still come
        count = len(asked)
        await pilot.pause(0.4)
        assert len(asked) == count
        await pilot.press("space")
        assert "PAUSED" not in lines(pilot)[0]
        await until(pilot, lambda: len(asked) > count + 1)

    drive(Top(source, 0.05), script)


def test_help_explains_and_closes() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        shown = text(pilot)
        for word in ("attach a process", "UNSHARE/s", "its mappings", "quit"):
            assert word in shown
        await pilot.press("escape")
        assert "attach a process" not in text(pilot)

    drive(view(MOMENTS), script)


def test_q_quits() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("q")

    app = view(MOMENTS)
    drive(app, script)
    assert app.return_code == 0


def test_t_changes_between_light_and_dark() -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert pilot.app.theme == "textual-dark"
        await pilot.press("t")
        assert pilot.app.theme == "textual-light"
        await pilot.press("t")
        assert pilot.app.theme == "textual-dark"

    drive(view(MOMENTS), script)


@pytest.mark.parametrize("size", [(80, 24), (60, 15), (120, 40), (20, 6), (200, 60)])
def test_hostile_names_neither_steer_the_terminal_nor_shift_a_column(size: tuple[int, int]) -> None:
    fields = ("name", "user", "guest", "unit", "domain", "cgroup", "why")
    first = MOMENTS[-1].rows[0]
    enemies = tuple(
        replace(first, **dict.fromkeys(fields, enemy), pid=at + 1, merged_bytes=0)
        for at, enemy in enumerate(ENEMIES)
    )
    decisions = tuple(Decision(BEGIN, enemy, {enemy: enemy}) for enemy in ENEMIES)
    moment = replace(MOMENTS[-1], rows=enemies, decisions=decisions)

    async def script(pilot: Pilot[None]) -> None:
        for _ in range(4):
            for _ in ENEMIES:
                for line in lines(pilot):
                    assert line.isprintable(), line
                    assert cell_len(line) == size[0], line
                await pilot.press("down")
            await pilot.press("home", "g")
        if size == (80, 24):
            assert "[red]x[/red]" in text(pilot)

    drive(view([moment]), script, size)


def test_a_hostile_filter_is_text() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"[red]\\[")
        assert "None of the 24 processes has '[red]" in text(pilot)
        assert all(cell_len(line) == 80 for line in lines(pilot))

    drive(view(MOMENTS), script)


def test_a_source_that_fails_is_told_and_asked_again() -> None:
    told: list[Moment | Exception] = [
        MOMENTS[0],
        PagemergeError("the hub has gone [red]\x1b"),
        ZeroDivisionError("a fault"),
        MOMENTS[1],
    ]
    gate, asked = threading.Semaphore(1), []

    def source() -> Moment:
        gate.acquire()
        asked.append(1)
        news = told[min(len(asked), len(told)) - 1]
        if isinstance(news, Exception):
            raise news
        return news

    async def script(pilot: Pilot[None]) -> None:
        assert len(table(pilot).lines) == 24
        gate.release()
        await until(pilot, lambda: "The hub has gone [red]\\x1b. The figures" in text(pilot))
        assert len(table(pilot).lines) == 24
        gate.release()
        await until(pilot, lambda: "ZeroDivisionError: a fault" in text(pilot))
        gate.release()
        await until(pilot, lambda: "fault" not in text(pilot))
        assert "22:13:21" in text(pilot)
        gate.release()

    drive(Top(source, 0.02), script)


def test_a_source_that_never_answers_stalls_neither_the_screen_nor_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pagemerge.watch.top.app.PATIENCE", 0.2)
    hanging = threading.Event()

    def source() -> Moment:
        hanging.wait()
        raise Ended("it ends")

    async def script(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "There has been no answer for" in text(pilot))
        await pilot.press("g", "s", "question_mark", "escape")

    began = time.monotonic()
    drive(Top(source, 0.02), script)
    assert time.monotonic() - began < 10
    hanging.set()


def test_a_recording_that_ends_says_so_and_stays() -> None:
    given = iter(MOMENTS[:2])

    def source() -> Moment:
        for moment in given:
            return moment
        raise Ended("the recording has ended")

    async def script(pilot: Pilot[None]) -> None:
        await until(
            pilot, lambda: "The recording has ended. The view shows its end." in text(pilot)
        )
        assert len(table(pilot).lines) == 24

    drive(Top(source, 0.02), script)


def test_a_feed_asks_one_at_a_time() -> None:
    gate, begun = threading.Semaphore(0), list[int]()
    told: list[Moment | Exception] = []

    def source() -> Moment:
        begun.append(1)
        gate.acquire()
        return MOMENTS[0]

    feed = Feed(source, told.append)
    for _ in range(20):
        feed.ask()
    end = time.monotonic() + 10
    while not begun and time.monotonic() < end:
        time.sleep(0.01)
    assert len(begun) == 1 and feed.waiting_seconds > 0
    gate.release(2)
    while not told and time.monotonic() < end:
        time.sleep(0.01)
    assert told == [MOMENTS[0]]
    feed.close()


def test_attach_and_detach_say_why_not() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("a")
        await until(pilot, lambda: "is a recording" in text(pilot))

    drive(view(MOMENTS, recorded=True), script)


@pytest.mark.requires("root")
def test_without_root_attach_says_what_it_needs() -> None:
    async def script(pilot: Pilot[None]) -> None:
        os.seteuid(65534)
        try:
            await pilot.press("a")
            await until(pilot, lambda: "attach needs root" in text(pilot))
        finally:
            os.seteuid(0)

    drive(view(MOMENTS), script)


@pytest.mark.requires("root")
def test_detach_is_for_one_process_of_the_kernel_engine() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"gunicorn", "enter", "d")
        await until(pilot, lambda: "is a client of the hub" in text(pilot))
        await pilot.press("escape", "g", "d")
        await until(pilot, lambda: "(no guest) has 20 processes" in text(pilot))
        assert len(pilot.app.screen_stack) == 1

    drive(view(MOMENTS), script, (120, 40))


@pytest.mark.requires("root")
def test_the_question_names_the_process_and_escape_leaves_it() -> None:
    async def script(pilot: Pilot[None]) -> None:
        await pilot.press("d")
        assert "Detach vm-01?" in text(pilot) and "1200" in text(pilot)
        await pilot.press("escape")
        assert len(pilot.app.screen_stack) == 1

    drive(view(MOMENTS), script)


@pytest.mark.parametrize("count", [200, 2000])
def test_many_rows_stay_fast(count: int) -> None:
    """A moment is shown in far less than the second until the next one."""
    moments = recording(12, count)

    async def script(pilot: Pilot[None]) -> None:
        took = []
        for at in range(10):
            moment = replace(moments[-1], time=BEGIN + 100 + at)
            began = time.process_time()
            top(pilot).post_message(Top.Came(moment))
            await pilot.pause()
            await pilot.press("down")
            took.append(time.process_time() - began)
        assert min(took) < (0.1 if count == 200 else 0.25), took

    drive(view(moments), script)


def test_it_follows_the_size_of_the_terminal() -> None:
    async def script(pilot: Pilot[None]) -> None:
        assert "Memory:" in text(pilot)
        for width, height in ((60, 15), (30, 8), (10, 3), (200, 70), (80, 24)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            shown = lines(pilot)
            assert len(shown) == height
            assert all(cell_len(line) == width for line in shown)
            if height == 15:
                assert "Memory:" not in text(pilot) and "SAVED" in text(pilot)
        assert "Memory:" in text(pilot)

    drive(view(MOMENTS), script)
