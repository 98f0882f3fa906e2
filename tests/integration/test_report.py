"""The report in a browser: opened, sorted, searched, in both themes, at two widths, printed.

``PAGEMERGE_SCREENSHOTS=FOLDER`` keeps pictures of it, to be looked at.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagemerge.report import page
from tests.conftest import missing
from tests.support import figures
from tests.support.browser import Page, browser, lacks_browser
from tests.support.figures import PAGE

WIDTHS = (400, 1200)
THEMES = ("light", "dark")
ROWS = "[...document.querySelectorAll('#table tbody tr')].filter((it) => !it.hidden)"
HOST = figures.host(300, 50)

Write = Callable[[dict[str, Any]], Path]


@pytest.fixture(scope="module")
def opened() -> Iterator[Page]:
    """A browser, for all tests here."""
    if reason := lacks_browser():
        missing("chromium", reason)
    with browser() as running:
        yield running


@pytest.fixture
def tab(opened: Page) -> Iterator[Page]:
    """The page of the browser; nothing may be written to its console."""
    opened.messages.clear()
    yield opened
    assert opened.messages == []


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(found: dict[str, Any]) -> Path:
        path = tmp_path / "report.html"
        page.write(found, path)
        return path

    return written


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_the_window(tab: Page, write: Write, width: int, theme: str) -> None:
    tab.show(write(HOST), width, theme)
    wide = "[...document.querySelectorAll('body *')].filter((it) => !it.closest('.scroll, .heads')"
    wide += " && it.getBoundingClientRect().right > innerWidth + 1).map((it) => it.outerHTML)"
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run(wide) == []
    paper = tab.run("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[theme]
    picture = tab.picture()
    assert picture[:4] == b"\x89PNG" and int.from_bytes(picture[16:20], "big") == width
    if folder := os.environ.get("PAGEMERGE_SCREENSHOTS"):
        (Path(folder) / f"report-{theme}-{width}.png").write_bytes(picture)


def test_every_part_is_seen(tab: Page, write: Write) -> None:
    tab.show(write(HOST | {"sample": figures.sample()}))
    seen = tab.run("[...document.querySelectorAll('section')].map((it) => it.id)")
    parts = ["sample", "memory", "sharing", "what", "why", "trust", "lasts", "fit", "compress"]
    assert seen == [*parts, "processes"]
    flat = "[...document.querySelectorAll('section')].filter((it) => it.offsetHeight < 100).length"
    assert tab.run(flat) == 0
    colours = "new Set([...document.querySelectorAll('.stack')[0].querySelectorAll('rect')]"
    colours += ".map((it) => getComputedStyle(it).fill)).size"
    assert tab.run(colours) == 7, "each part of the bar has a colour of its own"


def column(tab: Page, at: int) -> list[str]:
    found: list[str] = tab.run(f"{ROWS}.map((it) => it.cells[{at}].textContent)")
    return found


def test_the_table_is_sorted(tab: Page, write: Write) -> None:
    tab.show(write(HOST))
    before, saves = column(tab, 1), column(tab, 3)
    tab.click("#table th[data-by='0'] button")
    falling = column(tab, 1)
    assert sorted(falling, key=int, reverse=True) == falling != before
    assert tab.run("document.querySelector('[aria-sort]').textContent") == "Pid"
    tab.run("document.activeElement.blur()")
    tab.run("document.querySelector('#table th[data-by=name] button').focus()")
    tab.press("Enter", 13)
    names = column(tab, 0)
    assert sorted(names) == names
    assert tab.run("document.querySelectorAll('[aria-sort]').length") == 1
    tab.press("Enter", 13)
    assert column(tab, 0) == names[::-1]
    tab.click("#table th[data-by='2'] button")
    assert column(tab, 3) == saves, "the table comes sorted by what merging would save"


def test_the_table_is_searched(tab: Page, write: Write) -> None:
    tab.show(write(HOST))
    read = [it for it in HOST["processes"] if not it["error"]]
    found = "document.getElementById('found').textContent"
    assert tab.run(found) == f"{len(read)} of {len(read)} rows"
    tab.click("#search")
    tab.type("WEB uid 33")
    texts = {it["pid"]: f"{it['name']}\n{it['pid']}\n{it['uid']}\n{it['domain']}" for it in read}
    fits = [pid for pid, text in texts.items() if all(it in text for it in ("web", "uid", "33"))]
    assert 0 < len(fits) < len(read)
    assert tab.run(found) == f"{len(fits)} of {len(read)} rows"
    assert sorted(column(tab, 1)) == sorted(map(str, fits))
    tab.type(" nothing has this name")
    assert column(tab, 0) == []
    tab.press("Escape", 27)
    assert len(column(tab, 0)) == len(read)


def test_the_theme_is_chosen(tab: Page, write: Write) -> None:
    path = write(HOST)
    tab.show(path, theme="dark")
    tab.run("localStorage.clear()")
    tab.show(path, theme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    label = "document.getElementById('theme').textContent"
    assert (tab.run(paper), tab.run(label)) == ("rgb(20, 23, 26)", "Light theme")
    tab.click("#theme")
    assert (tab.run(paper), tab.run(label)) == ("rgb(255, 255, 255)", "Dark theme")
    tab.show(path, theme="dark")
    assert tab.run(paper) == "rgb(255, 255, 255)", "it is remembered"
    tab.click("#theme")
    assert tab.run(paper) == "rgb(20, 23, 26)"
    tab.run("localStorage.clear()")


def test_the_matrix_tells_what_a_pair_has_in_common(tab: Page, write: Write) -> None:
    tab.show(write(HOST))
    names = tab.run("[...document.querySelectorAll('#matrix li')].map((it) => it.textContent)")
    said = "document.getElementById('matrix-said').textContent"
    pairs = {
        frozenset((it["first"], it["second"])): it["common_pages"] * PAGE
        for it in HOST["sharing"]["pairs"]
    }
    tab.run("document.getElementById('matrix').focus()")
    for at in range(1, 8):
        shared = pairs.get(frozenset((names[0], names[at])), 0)
        told = tab.run(said)
        assert told.startswith(f"1 {names[0]} and {at + 1} {names[at]}: ")
        number, unit = told.split(": ")[1].split()[:2]
        scale = {"bytes": 1, "kB": 1e3, "MB": 1e6}[unit]
        assert float(number) * scale == pytest.approx(shared, rel=0.006)
        tab.press("ArrowRight", 39)
    x, y, side = tab.run(
        "(() => { const it = document.getElementById('cells'); it.scrollIntoView();"
        "const box = it.getBoundingClientRect(); return [box.x, box.y, box.width / 50]; })()"
    )
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 9.5 * side, y=y + 4.5 * side)
    tab.frame()
    assert tab.run(said).startswith(f"5 {names[4]} and 10 {names[9]}: ")


def test_it_prints_black_on_white_and_whole(tab: Page, write: Write) -> None:
    tab.show(write(HOST), theme="dark")
    tab.resize(800, "dark", media="print")
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert tab.run("document.getElementById('tools').offsetHeight") == 0
    assert tab.run("document.getElementById('theme').offsetHeight") == 0
    box = "document.querySelector('.tall')"
    assert tab.run(f"{box}.scrollHeight <= {box}.clientHeight + 1"), "no row is cut off"
    printed = tab.printed()
    assert printed.startswith(b"%PDF")
    if folder := os.environ.get("PAGEMERGE_SCREENSHOTS"):
        (Path(folder) / "report.pdf").write_bytes(printed)
    tab.resize(1200)


def test_it_is_read_without_its_script(tab: Page, write: Write) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.show(write(HOST))
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    assert tab.run("document.getElementById('tools').offsetHeight") == 0
    assert len(column(tab, 0)) == sum(not it["error"] for it in HOST["processes"])


HOSTILE = "<img src=x onerror='window.ran=1'>\"><script>window.ran=1</script>\u202e\x1b[2J\udcff"


def test_hostile_names_are_seen_and_do_nothing(tab: Page, write: Write) -> None:
    host = figures.host(20, 6)
    for row in host["processes"]:
        row["name"] = HOSTILE
    for group in host["sharing"]["groups"]:
        group["name"] += HOSTILE
    host["contents"]["kinds"][1]["files"][0]["path"] = "/" + HOSTILE
    tab.show(write(host))
    shown = "<img src=x onerror='window.ran=1'>\"><script>win…"
    assert column(tab, 0) == [shown] * 18
    assert tab.run("document.scripts.length") == 1
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("typeof window.ran") == "undefined"


def test_the_browser_enforces_the_policy(opened: Page, write: Write) -> None:
    """What would get into the page all the same could not run, nor fetch anything."""
    opened.show(write(HOST))
    opened.messages.clear()
    opened.run(
        "(() => { const it = document.createElement('script'); it.textContent = 'window.ran = 1';"
        "document.body.append(it); const image = new Image(); image.src = 'http://127.0.0.1:9/';"
        "document.body.append(image); document.body.setAttribute('style', 'color: red'); })()"
    )
    assert opened.run("typeof window.ran") == "undefined"
    assert opened.run("getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    told = " ".join(opened.messages)
    for rule in ("script-src", "style-src", "default-src"):
        assert rule in told


@pytest.fixture
def pids() -> Iterator[list[str]]:
    """Two processes with a megabyte of equal pages and one of zeros each."""
    holder = Path(__file__).parent.parent / "victims" / "holder.py"
    argv = [sys.executable, str(holder), "seed", "1", "unique", str(1 << 20), "zero", str(1 << 20)]
    running = [subprocess.Popen(argv, stdin=-1, stdout=-1) for _ in range(2)]
    try:
        for one in running:
            assert one.stdout and one.stdout.readline() == b"ready\n"
        yield [str(one.pid) for one in running]
    finally:
        for one in running:
            one.kill()
            one.communicate()


def scan(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "pagemerge", "scan", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, **more)


def test_scan_writes_a_report(tab: Page, tmp_path: Path, pids: list[str]) -> None:
    path = tmp_path / "report.html"
    done = scan(
        "--json", "--what", "--group-by", "process", "--report", str(path), "--top", "1", *pids
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == [path]
    found = json.loads(done.stdout)
    tab.show(path)
    saves = found["totals"]["saveable_bytes"] / 1e6
    assert tab.run("document.querySelector('h1').textContent") == (
        f"Merging would save {saves:.2f} MB"
    )
    assert sorted(column(tab, 1)) == sorted(pids), "--top is about what is printed"
    assert tab.run("document.querySelectorAll('#matrix li').length") == 2


def test_a_report_that_cannot_be_written_is_refused_before_the_scan(tmp_path: Path) -> None:
    for path, says in ((tmp_path, "a directory"), (tmp_path / "none" / "r.html", "no folder")):
        done = scan("--report", str(path), str(os.getpid()))
        assert done.returncode == 2 and not done.stdout
        assert says in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_jinja_the_cure_is_named(tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise ImportError")
    words = ("--report", str(tmp_path / "r.html"), str(os.getpid()))
    done = scan(*words, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 77
    assert 'pip install "pagemerge[report]"' in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


@pytest.mark.requires("root")
def test_a_full_disk_costs_the_report_and_not_the_answer(tmp_path: Path, pids: list[str]) -> None:
    argv = ["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(tmp_path)]
    mounted = subprocess.run(argv, capture_output=True, text=True)
    if mounted.returncode:
        missing("mounts", mounted.stderr)
    try:
        done = scan("--report", str(tmp_path / "r.html"), *pids)
        assert done.returncode == 1
        assert done.stdout.startswith("Merging would save ")
        assert "No space left on device" in done.stderr and done.stderr.count("\n") == 1
        assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
