"""What the README names is there: verbs, options, targets of make, and the run in its picture."""

from __future__ import annotations

import argparse
import json
import re
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from benchmarks.lab import demo_picture as picture

from pagemerge import cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PICTURES = ROOT / "docs" / "pictures"

BLOCKS = re.findall(r"^```console\n(.*?)^```$", README, re.S | re.M)
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.S | re.M)
TYPED = [
    *(line[2:] for block in BLOCKS for line in block.splitlines() if line[:2] in ("$ ", "# ")),
    *re.findall(r"`([^`]+)`", PROSE),
]
"""All that the README tells to type, in blocks and in sentences."""

COMMANDS = sorted(
    {
        (verb, words.partition("#")[0].partition(" -- ")[0].strip())
        for line in TYPED
        for verb, words in re.findall(r"\bpagemerge ([a-z]+)\b([^;|]*)", line)
    }
)


@pytest.mark.parametrize(("verb", "words"), COMMANDS)
def test_every_command_is_there_with_its_options(verb: str, words: str) -> None:
    parser = argparse.ArgumentParser()
    cli.load(verb).arguments(parser)
    known = parser.format_help()
    for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", words):
        assert re.search(rf"{option}\b(?!-)", known), f"pagemerge {verb} has no {option}"


def test_every_verb_is_named() -> None:
    assert {verb for verb, _ in COMMANDS} == set(cli.VERBS)


def test_every_target_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    named = {name for line in TYPED for name in re.findall(r"\bmake ([a-z]+)\b", line)}
    assert named and named <= targets


def test_the_picture_is_of_the_run_beside_it() -> None:
    run = json.loads((PICTURES / "demo.json").read_text())
    drawn = (PICTURES / "demo.svg").read_text()
    assert drawn == picture.drawn(run), "python benchmarks/picture.py --from ... --into ..."
    xml.fromstring(drawn)
    described = README.partition("![")[2].partition("]")[0]
    for figure in ("before_bytes", "after_bytes"):
        assert picture.size(run["figures"][figure]) in described


def test_the_picture_has_the_figures_of_any_run() -> None:
    run = json.loads((PICTURES / "demo.json").read_text())
    run["figures"] |= {"saved_bytes": 123_000_000, "lost_writes": 7}
    drawn = picture.drawn(run)
    assert "123 MB saved" in drawn and "7 of" in drawn
