"""Man pages and completions of parsers and settings that pagemerge itself does not have."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal

import msgspec
import pytest
from manual import roff, settings, verbs


class Inner(msgspec.Struct):
    """A table in a table."""

    keep: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many."""


class Outer(msgspec.Struct):
    """A table."""

    mode: Literal["a", "b"]
    names: tuple[str, ...] = ()
    """Which."""
    inner: Inner = msgspec.field(default_factory=Inner)


class Whole(msgspec.Struct):
    """A file."""

    outer: Outer


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (".TH is no macro", r"\&.TH is no macro"),
        ("it's --all", r"it\(aqs \-\-all"),
        ("a\\b ~ ^ `", r"a\eb \(ti \(ha \(ga"),
    ],
)
def test_text_prints_as_it_is(text: str, written: str) -> None:
    assert roff.escape(text) == written


def test_what_stands_in_backquotes_is_bold() -> None:
    assert roff.prose("run ``a\n  b`` or `c`.") == r"run \fBa b\fR or \fBc\fR\&."


def test_a_line_never_starts_with_a_dot_by_accident() -> None:
    text = "word " * 14 + "files ...and .config " + "word " * 20
    page = roff.page("x", 1, "y", {"DESCRIPTION": [roff.prose(text)]})
    lines = page.split("\n")
    assert all(len(line) <= 80 for line in lines)
    macros = {line.split()[0] for line in lines if line.startswith(".")}
    assert macros == {".TH", ".SH", ".nh", ".ad"}


def test_the_date_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert '"1970-01-02"' in roff.page("x", 1, "y", {})


def test_subcommands_come_with_their_arguments() -> None:
    parser = argparse.ArgumentParser(prog="pagemerge config")
    sub = parser.add_subparsers()
    check = sub.add_parser("check", help="check a file")
    check.add_argument("file", metavar="FILE", help="the file")
    check.add_argument("--strict", action="store_true", help="fail on %(prog)s's warnings")
    text = "\n".join(verbs._commands(parser))
    assert ".SS check\n" in text
    assert r"\fBpagemerge config check\fR [\-h] [\-\-strict] FILE" in text
    assert "Check a file.\n" in text
    assert ".TP\n\\fIFILE\\fR\nThe file.\n" in text
    assert ".TP\n\\fB\\-\\-strict\\fR\nFail on pagemerge\\(aqs warnings." in text
    assert text.count("FILE") == 2 and "help" not in text


def test_tables_may_have_tables() -> None:
    text = "\n".join(settings.tables(Whole))
    assert text.index(".SS [outer]\nA table.") < text.index(
        ".SS [outer.inner]\nA table in a table."
    )
    assert "\\fBkeep\\fR\nHow many.\n.IP\nInteger, 1 or more. Default: unset." in text
    assert "\\fBnames\\fR\nWhich.\n.IP\nList of text. Default: []." in text
    assert '\\fBmode\\fR\nText, "a" or "b". Required.' in text
