"""The examples of docs/history.md: run as they stand, they print what the page says."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pagemerge.watch.history import History
from pagemerge.watch.metrics import METRICS
from pagemerge.watch.model import Decision
from pagemerge.watch.topics import OTHER, TOPICS
from tests.support.commands import PAGEMERGE
from tests.unit.watch.moments import kernel, moment, user

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "history.md").read_text()
ENDLESS = ("--listen", "--every")
NUMBER = re.compile(r"[\d.,:]*\d")
pytestmark = pytest.mark.timeout(400)


def examples() -> list[tuple[str, list[str]]]:
    """Each command of the page, with the lines that it promises."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.S | re.M):
        for line in block.splitlines():
            if line.startswith(("$ ", "# pagemerge")):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Two hours like those that the page is about."""
    path = tmp_path / "history.sqlite"
    monkeypatch.setenv("PAGEMERGE_HISTORY", str(path))
    now = time.time()
    reasons = ("5.1 MB to go", "it seems done")
    with History(path) as history:
        for at in range(0, 7200, 10):
            high = at % 3600 < 1800
            told = (Decision(now - 7190 + at, reasons[at // 900 % 2]),) if at % 900 == 0 else ()
            history.add(
                moment(
                    now - 7190 + at,
                    user=user(saved_bytes=200_000_000, separations=6 * at, cpu_seconds=at * 0.01),
                    kernel=kernel(
                        saved_bytes=(2_200 if high else 1_000) * 1_000_000, cpu_seconds=at * 0.01
                    ),
                    decisions=told,
                )
            )
    yield


def shaped(line: str) -> str:
    """A line with its figures, units and widths left out."""
    line = line.replace(os.environ["PAGEMERGE_HISTORY"], "/var/lib/pagemerge/history.sqlite")
    line = re.sub(r"\b(bytes|kB|MB|GB)\b", "B", NUMBER.sub("N", line))
    return re.sub(r"[ ─▁▂▃▄▅▆▇█]+", " ", line).strip()


def assert_follows(promised: list[str], printed: list[str]) -> None:
    """The promised lines are there in their order; ``...`` stands for any lines."""
    at, free = 0, False
    for line in promised:
        if line == "...":
            free = True
            continue
        wanted = shaped(line)
        rest = [shaped(it) for it in printed[at:]]
        assert wanted in rest if free else rest and rest[0] == wanted, (line, printed)
        at, free = at + rest.index(wanted) + 1, False
    assert free or at == len(printed), printed[at:]


def test_the_page_has_examples() -> None:
    assert len(examples()) >= 7
    assert {words.split()[1] for words, _ in examples()} == {"history", "metrics"}


@pytest.mark.parametrize("number", range(len(examples())))
def test_an_example_prints_what_the_page_says(
    number: int, recorded: None, hub_socket: Path, tmp_path: Path
) -> None:
    words, promised = examples()[number]
    folder = "/var/lib/prometheus/node-exporter"
    argv = shlex.split(words.replace(folder, str(tmp_path)).replace(":9838", ":0"))
    assert argv[0] == "pagemerge"
    running = subprocess.Popen(
        [*PAGEMERGE, *argv[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TZ": "UTC"},
    )
    if "--listen" in argv:
        assert running.stdout
        printed = [running.stdout.readline()]
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
        running.stdout.close()
    elif "--every" in argv:
        while not (tmp_path / "pagemerge.prom").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.terminate()
        printed = running.communicate(timeout=60)[0].splitlines()
    else:
        printed = running.communicate(timeout=300)[0].splitlines()
        assert running.returncode == 0
    assert_follows([it.replace(":9838", ":0") for it in promised], [it.rstrip() for it in printed])


def test_a_wrong_promise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGEMERGE_HISTORY", "/x")
    assert_follows(["a 1", "...", "c 3"], ["a 2", "b", "c 4"])
    for promised in (["b", "..."], ["a 1", "c 1"], ["a 1"], ["...", "d"]):
        with pytest.raises(AssertionError):
            assert_follows(promised, ["a 2", "b", "c 4"])


def test_the_page_lists_every_metric_and_topic() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", PAGE, re.M)
    found = {name: (labels, told) for name, labels, told in rows if name in METRICS}
    assert found == {
        name: (", ".join(f"`{it}`" for it in labels) or "none", told)
        for name, (labels, told) in METRICS.items()
    }
    assert all(f"`{it}`" in PAGE for it in (*TOPICS, OTHER))
    alerts = (ROOT / "deploy" / "prometheus" / "pagemerge.rules.yml").read_text()
    assert set(re.findall(r"alert: (\w+)", alerts)) == set(re.findall(r"`(Pagemerge\w+)`", PAGE))
