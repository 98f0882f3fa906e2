"""Every error of a document is listed with its line; any bytes give settings or errors."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemerge.config import Configuration
from pagemerge.settings.check import check
from pagemerge.settings.schema import tables
from tests.support.toml import TOKENS, written


def told(text: str | bytes, root: type[msgspec.Struct] = Configuration) -> list[tuple[int, str]]:
    data = text.encode() if isinstance(text, str) else text
    return [(it.line, it.message) for it in check(data, root).problems]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("\n[hub]\nlook = 1\n", 3, "hub.look: there is no such key; the nearest is looks"),
        ("look = 1\n", 1, "look: there is no such key; the nearest is looks below [hub]"),
        ("looks = 1\n", 1, "looks: there is no such key here: write it below [hub]"),
        ("[hub]\ncpu_percent = 101\n", 2, "hub.cpu_percent: 101 is not allowed: give a number"),
        ("[hub]\nlooks = 1.5\n", 2, "hub.looks: 1.5 is not allowed: give an integer, 1 to 16"),
        ("[hub]\nlooks = true\n", 2, "hub.looks: true is not allowed"),
        ("hub.looks = ''\n", 1, 'hub.looks: "" is not allowed'),
        ("hub = {looks = [1]}\n", 1, "hub.looks: [1] is not allowed"),
        ("[hub.looks]\n", 1, "hub.looks: a table is not allowed"),
        ("[kernel]\nprice_bytes = inf\n", 2, "kernel.price_bytes: inf is not allowed"),
        ("[kernel]\nprice_bytes = 0x" + "f" * 300, 2, "kernel.price_bytes: 0xfff"),
        ("[[hub]]\n", 1, "hub: write [hub] once, and its keys below it"),
        ("hub = 1\n", 1, "hub: write [hub] once"),
        ("[rule]\nopt = 'in'\n", 1, "rule: write [[rule]] above the keys of each rule"),
        ("rule = [1]\n", 1, "rule: write [[rule]]"),
        (
            "[[rule]]\nuser = 1\n\n[[rule]]\nopt = 'in'\nuser = 1\n",
            1,
            "rule 1.opt: the key is missing",
        ),
        (
            "rule = [\n {opt = 'in', user = 1},\n {opt = 'in'}]\n",
            3,
            "rule 2: a rule needs a matcher",
        ),
        ("\nlooks = \n", 2, "this is not TOML: invalid value (column 9)"),
        ("[hub\n", 1, "this is not TOML: "),
        ("a = '''\n\nb = 1\n", 3, "may lack its end; the rest of the file is not checked"),
        ("a = [\n[hub]\n", 2, "the value that starts in line 1 may lack its end"),
        ("[hub]\nlooks = 1\nlooks = 1", 3, "hub.looks: line 2 has this key already"),
        ("hub.looks = 1\n\n[hub]\n", 3, "hub: line 1 has this table already"),
        ("[hub]\n[kernel]\n[hub]\n", 3, "hub: line 1 has this table already: write all its keys"),
        (
            b"[hub]\r\n# \xff\r\n",
            2,
            "byte 3 of this line (0xff) is not UTF-8: save the file as UTF-8",
        ),
        (b"\xef\xbb\xbf[hub]\n", 1, "byte order mark"),
        ("a = " + "[" * 99, 1, "more than 32 brackets inside each other; the rest"),
        ("\n'\x1b\u2028' = 1\n", 2, "this is not TOML: "),
        ('"\\u001b\\u2028" = 1\n', 1, '"\\u001b\\u2028": there is no such key; known are'),
    ],
)
def test_an_error_has_its_line_and_its_cure(text: str | bytes, line: int, message: str) -> None:
    [(at, found)] = told(text)
    assert (at, message in found) == (line, True), found
    assert found.isprintable()


GOOD = {
    "hub": ["looks = 1", "dead_share = 1", "'cpu_percent' = 0.5"],
    "kernel": ["burst_seconds=0"],
}
WRONG = [
    "x{} = 1",
    "x{} =",
    "x{} = 1 2",
    "x{} = [\n1,\n2]",
    "x{} = '''\n[hub]\n'''",
    "{} x = 1",
    "= {}",
]
WHOLE = ['command = "*"', "opt = 'out'"]


@st.composite
def wrong_documents(draw: st.DrawFn) -> tuple[str, list[int]]:
    """A document with up to 20 errors (``MOST_ERRORS``), and the line of each."""
    text, wrong = draw(st.sampled_from(["", "\r\n", "# x\n"])), list[int]()
    number = 0
    headers = draw(st.lists(st.sampled_from(["hub", "kernel", "rule"]), max_size=3))
    seen = set[str]()
    for header in headers:
        if header in seen and header != "rule":
            wrong.append(text.count("\n") + 1)
        text += "[[rule]]\n" if header == "rule" else f"[{header}]\n"
        # A second table is reported, and its keys are checked by themselves.
        lines = WHOLE if header == "rule" else GOOD[header]
        lines = (
            draw(st.permutations(lines))
            if header == "rule"
            else draw(st.lists(st.sampled_from(lines), max_size=4))
        )
        seen.add(header)
        keys = set[str]()
        for line in [*lines, *draw(st.lists(st.sampled_from(WRONG), max_size=2))]:
            number += 1
            if line in keys or line in WRONG:
                wrong.append(text.count("\n") + 1)
            keys.add(line)
            text += line.format(number) + draw(st.sampled_from(["\n", "\r\n", " # y\n\n"]))
    return text, wrong


@given(wrong_documents())
def test_every_error_is_listed(document: tuple[str, list[int]]) -> None:
    text, wrong = document
    found = check(text.encode(), Configuration)
    assert [it.line for it in found.problems] == wrong, found.problems
    assert (found.value is None) == bool(wrong)


def test_a_broken_file_is_checked_up_to_a_limit() -> None:
    found = told("looks =\n" * 1000)
    assert len(found) == 21
    assert found[-1] == (21, "too many errors; the rest of the file is not checked")


@given(
    st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS)).map(lambda it: "".join(it).encode())
)
def test_any_bytes_give_settings_or_errors(data: bytes) -> None:
    found = check(data, Configuration)
    assert (found.value is None) == bool(found.problems)
    lines = data.count(b"\n") + 1
    assert all(1 <= it.line <= lines and it.message.isprintable() for it in found.problems)


plain_values = st.one_of(
    st.integers(),
    st.floats(),
    st.booleans(),
    st.text(max_size=5),
    st.just("in"),
    st.datetimes(),
    st.dates(),
)


NAMES = ["hub", "kernel", "rule", *(key.name for it in tables(Configuration) for key in it.keys)]


@given(
    st.dictionaries(
        st.sampled_from(NAMES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
        st.recursive(
            plain_values,
            lambda it: (
                st.lists(it, max_size=3) | st.dictionaries(st.sampled_from(NAMES), it, max_size=4)
            ),
            max_leaves=12,
        ),
        max_size=4,
    )
)
def test_any_document_gives_settings_or_errors(document: dict[str, object]) -> None:
    text = "\n".join(f"{written(key)} = {written(value)}" for key, value in document.items())
    found = check(text.encode(), Configuration)
    assert (found.value is None) == bool(found.problems)


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    """A table in a table."""

    port: Annotated[int, msgspec.Meta(ge=1, lt=65536)] = 9
    """Port to listen on."""


class Service(msgspec.Struct, forbid_unknown_fields=True):
    """A table that pagemerge does not have."""

    engines: list[Literal["user", "kernel"]] = msgspec.field(default_factory=lambda: ["user"])
    """Engines to run."""
    inner: Inner = msgspec.field(default_factory=Inner)
    need: int | None = None


class Other(msgspec.Struct, forbid_unknown_fields=True):
    """Tables that pagemerge does not have."""

    service: Service = msgspec.field(default_factory=Service)


def test_it_works_on_any_tables() -> None:
    found = check(b"[service]\nengines = ['kernel']\n[service.inner]\nport = 1\n", Other)
    assert found.value == Other(Service(["kernel"], Inner(1)))
    text = "[service]\nengines = ['both']\nneed = ''\n[service.inner]\nport = 65536\nengines = 1"
    no = "is not allowed: give"
    assert told(text, Other) == [
        (2, f'service.engines: ["both"] {no} a list of text, each "kernel" or "user"'),
        (3, f'service.need: "" {no} an integer'),
        (5, f"service.inner.port: 65536 {no} an integer, 1 or more, below 65536"),
        (6, "service.inner.engines: there is no such key here: write it below [service]"),
    ]
