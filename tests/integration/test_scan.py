"""``pagemerge scan`` with questions, about real processes that hold known pages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pagemerge.model import PAGE_SIZE
from tests.support.commands import NOBODY

HOLDER = Path(__file__).parent.parent / "victims" / "holder.py"
MIB = 1 << 20
PAGES = MIB // PAGE_SIZE

Hold = Callable[..., int]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Starts processes that hold pages (see ``victims/holder.py``); returns their pids."""
    with ExitStack() as stack:

        def start(*words: object, user: int | None = None) -> int:
            command = [sys.executable, str(HOLDER), *map(str, words)]
            if user is not None:
                command[2:2] = ["user", str(user)]
            made = subprocess.Popen(command, stdin=-1, stdout=-1)
            stack.enter_context(made)
            stack.callback(made.kill)
            assert made.stdout
            assert made.stdout.readline() == b"ready\n"
            return made.pid

        yield start


def scan(*words: object) -> Any:
    command = [sys.executable, "-m", "pagemerge", "scan", "--json", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_what_tells_the_kinds_apart(hold: Hold, tmp_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(os.urandom(MIB))
    pids = [hold("word", MIB, "text", MIB, "heap", MIB, "file", model, "zero", MIB) for _ in "ab"]
    kinds = {it["kind"]: it for it in scan("--what", *pids)["contents"]["kinds"]}
    saved = {name: it["saveable_bytes"] for name, it in kinds.items()}
    assert saved["repeated word"] >= 2 * MIB - PAGE_SIZE
    assert saved["zeros"] >= 2 * MIB
    for name in ("text", "pointers", "file"):
        assert MIB <= saved[name] < 3 * MIB, (name, saved)
        assert kinds[name]["copies_by_mapping"]["anonymous"] >= 2 * PAGES
    files = {it["path"]: it["saveable_bytes"] for it in kinds["file"]["files"]}
    # What a holder has freed may still hold parts of the file, by chance at the same offsets.
    assert MIB <= files[str(model)] < 3 * MIB


def test_groups_by_process_user_and_domain(hold: Hold) -> None:
    one, two = (hold("seed", 1, "unique", MIB, "zero", MIB) for _ in range(2))
    other = hold("seed", 1, "unique", MIB, user=NOBODY) if os.geteuid() == 0 else None
    pids = [it for it in (one, two, other) if it]
    found = scan("--group-by", "process", *pids)
    groups = {it["name"].split()[0]: it for it in found["sharing"]["groups"]}
    for pid in (one, two):
        assert groups[str(pid)]["shared_pages"] >= PAGES
        assert groups[str(pid)]["zero_pages"] >= PAGES
        figures = groups[str(pid)]
        parts = ("zero_pages", "own_duplicate_pages", "shared_pages", "exclusive_pages")
        assert figures["pages"] == sum(figures[it] for it in parts)
    pair = found["sharing"]["pairs"][0]
    assert {pair["first"].split()[0], pair["second"].split()[0]} == {str(one), str(two)}
    assert pair["common_pages"] >= PAGES
    if other:
        pairs = [f"{it['first']} {it['second']}".split() for it in found["sharing"]["pairs"]]
        assert pairs and not any(str(other) in it for it in pairs), "it is in another domain"
        trust = found["trust"]
        assert trust["domains"] == 2
        assert trust["saveable_bytes_together"] - trust["saveable_bytes_apart"] >= MIB
        users = scan("--group-by", "user", *pids)["sharing"]["groups"]
        assert {it["name"] for it in users} == {"root", "nobody"}
        assert {it["processes"] for it in users} == {1, 2}


def test_watch_tells_what_lasts(hold: Hold) -> None:
    still, busy = "unique", "rewritten"
    pids = [hold("seed", 1, still, 2 * MIB, busy, MIB) for _ in range(2)]
    began = time.monotonic()
    watched = scan("--watch", 2, "--every", 0.5, *pids)["watch"]
    assert 1.5 <= time.monotonic() - began < 30
    assert watched["looks"] >= 3
    assert watched["stable_pages"] >= 2 * PAGES
    assert watched["unshared_pages_per_second"] > 0, "the busy pages are written every 0.1 s"
    assert watched["least_pages"] * PAGE_SIZE <= watched["expected_bytes"]
    assert watched["expected_bytes"] <= watched["most_pages"] * PAGE_SIZE
    assert watched["expected_bytes"] / PAGE_SIZE < watched["saveable_pages"]


def test_one_more_like_those_that_a_name_fits(hold: Hold) -> None:
    """Others of that name, which are not looked at, do not count."""
    pids = [hold("seed", at, "unique", MIB) for at in range(3)]
    found = scan("--fit", Path(sys.executable).name, *pids[:2])["fit"]
    assert found["processes_looked_at"] == 2
    assert scan("--fit", pids[0], *pids)["fit"]["processes_looked_at"] == 1


@pytest.mark.parametrize("sample", [[], ["--sample"]], ids=["all", "sample"])
def test_what_an_image_lacks_is_said(tmp_path: Path, sample: list[str]) -> None:
    image = tmp_path / "image"
    image.write_bytes(os.urandom(MIB + 100))
    (note,) = scan("--image", image, *sample)["notes"]
    assert note["name"] == str(image) and "last page has only 100 bytes" in note["note"]


def test_a_file_that_is_named_twice_is_one_image(tmp_path: Path) -> None:
    image, link = tmp_path / "image", tmp_path / "link"
    image.write_bytes(os.urandom(MIB))
    link.symlink_to(image)
    totals = scan("--image", image, "--image", link, "--image", image)["totals"]
    assert (totals["pages"], totals["saveable_bytes"]) == (PAGES, 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--every", "2", "--all"], "--every goes with --watch"),
        (["--watch", "nan", "--all"], "is not a time"),
        (["--watch", "-1", "--all"], "is not a time"),
        (["--group-by", "colour", "--all"], "choose from"),
    ],
)
def test_bad_questions(words: list[str], says: str) -> None:
    command = [sys.executable, "-m", "pagemerge", "scan", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and says in done.stderr


@pytest.mark.parametrize("width", [80, 100])
def test_every_line_fits(hold: Hold, width: int) -> None:
    pids = [hold("word", MIB, "text", MIB) for _ in range(2)]
    words = ["--what", "--group-by", "unit", "--watch", "0.2", *map(str, pids)]
    program = "from pagemerge.cli.show import tables\ntables.UNBOUND = WIDTH\n"
    program += "import sys\nfrom pagemerge.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    command = [sys.executable, "-c", program.replace("WIDTH", str(width)), "scan", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    tables = [it for it in done.stdout.split("\n") if "  " in it.strip()]
    assert tables and max(map(len, tables)) <= width
    assert done.stdout.startswith("Merging would save ")
