"""The page: hostile names are text, it refers to nothing outside, and it is never too large."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemerge.errors import Unsupported, UsageError
from pagemerge.report import page
from tests.support import figures, hostile
from tests.support.hostile import text_of

MARKUP = (
    *("<script>alert(1)</script>", "</script>", "</style><b>", "<!--", "-->", "]]>", "<", "&lt;"),
    *(
        "'\"><img src=x onerror=alert(1)>",
        '" onload="alert(1)',
        "{{ 7 * 7 }}",
        "{% raw %}",
        "&#60;",
    ),
    *("\ud800", "\x00", "\u202e", "\u2066", "日本", "x" * 4096, "<" * 4096, "\udcff" * 4096),
)
"""What would be markup, or no text at all."""
names = st.lists(
    st.sampled_from(MARKUP) | hostile.text(b"").map(text_of), min_size=1, max_size=3
).map("".join)
COUNTED = ("copies_by_name", "copies_by_mapping", "ineligible_bytes_by_reason", "bytes_by_kind")
"""Figures whose keys come from outside."""


class Tags(HTMLParser):
    """The tags of a page with the names of their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.others: list[str] = []
        self.values: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.values += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    handle_pi = unknown_decl = handle_comment


def named(value: Any, name: str, key: str = "") -> Any:
    """Put ``name`` wherever text of others stands in ``value``; what differs stays different."""
    if isinstance(value, str):
        return f"{value}{name}" if key not in ("error", "page_size") else f"error {name}"
    if isinstance(value, dict):
        if key in COUNTED:
            return {f"{it}{name}": count for it, count in value.items()}
        return {it: named(part, name, it) for it, part in value.items()}
    return [named(it, name, key) for it in value] if isinstance(value, list) else value


SMALL = figures.host(6, 3) | {"sample": figures.sample()}
HARMLESS = Tags(page.render(named(SMALL, "n")).decode())


@given(names)
@settings(max_examples=60)
def test_hostile_names_are_text(name: str) -> None:
    """The page has the tags and attributes that it has with harmless names, and no others."""
    told = page.render(named(SMALL, name)).decode()
    assert len(told.encode()) < page.MOST_BYTES
    assert not re.search(r"[^\n\x20-\x7e\u00a0-\U0010ffff]", told), "nothing steers a terminal"
    assert Tags(told).tags == HARMLESS.tags
    assert not Tags(told).others
    assert told.count("<script>") == told.count("</script>") == told.count("<style>") == 1


def test_a_name_is_shown_as_it_is_and_once_escaped() -> None:
    """Without its own name, the table would have hidden what the process is."""
    host = figures.host(3, 3)
    host["processes"][0]["name"] = "<b>&amp;\x1b[2J\udcff"
    told = page.render(host).decode()
    assert "&lt;b&gt;&amp;amp;\\x1b[2J\\xff" in told and "<b>" not in told
    assert "<b>&amp;\\x1b[2J\\xff" in Tags(told).text


def test_what_a_template_prints_is_plain_and_escaped() -> None:
    """Whatever a section forgets."""
    template = page._environment().from_string("{{ name }}")
    assert template.render(name="\x1b[2J\udcff<b>") == "\\x1b[2J\\xff&lt;b&gt;"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "kind", "pages", "bytes", "more"]), inner)
    ),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in some figures."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        inner = isinstance(part, dict | list)
        found += places(part, (*path, key)) if inner else [(*path, key)]
    return found


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """Return figures with another value at ``path``."""
    if not path:
        return by
    made = value.copy()
    made[path[0]] = replaced(value[path[0]], path[1:], by)
    return made


@given(st.lists(st.tuples(st.sampled_from(places(SMALL)), json_values), max_size=4))
@settings(max_examples=100)
def test_unknown_shapes_are_skipped(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    found: Any = SMALL
    for path, value in changes:
        # A change may have removed the place of the next one.
        if path in places(found):
            found = replaced(found, path, value)
    assert page.render(found).endswith(b"</html>")


@pytest.mark.parametrize("name", ["trust", "sharing", "contents", "why", "sample", "watch"])
def test_a_part_alone_makes_a_page(name: str) -> None:
    host = figures.host(5, 3) | {"sample": figures.sample()}
    told = page.render({name: host[name]}).decode()
    assert f'<section id="{SECTION.get(name, name)}"' in told
    assert told.count("<section") == 1


SECTION = {"contents": "what", "watch": "lasts"}


def test_nothing_is_no_error() -> None:
    assert b"<h1>No memory was looked at</h1>" in page.render({})


def test_two_thousand_processes_fit() -> None:
    told = page.render(figures.host(2000, 50))
    assert len(told) < page.MOST_BYTES
    assert told.count(b"<tr data-v=") == 500
    assert b"Left out: 1,278 more processes" in told


def test_long_names_everywhere_still_fit() -> None:
    told = page.render(named(figures.host(2000, 50), "&<\"'" * 1024))
    assert len(told) < page.MOST_BYTES
    assert 50 < told.count(b"<tr data-v=") < 500, "fewer rows, but as many as there is room for"


def test_the_policy_allows_what_is_in_the_page_and_nothing_else() -> None:
    told = page.render(SMALL).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', told)
    assert policy is not None
    rules = policy[1].replace("&#39;", "'").split("; ")
    expected = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    for tag in ("style", "script"):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", told, re.S)
        assert len(inside) == 1
        digest = hashlib.sha256(inside[0].encode()).digest()
        expected.append(f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'")
    assert sorted(rules) == sorted(expected)
    assert told.index("Content-Security-Policy") < told.index("<style>")


def test_the_page_refers_to_nothing_outside() -> None:
    found = Tags(page.render(figures.host(9, 5)).decode())
    for name, value in found.values:
        assert name not in ("src", "srcset", "style", "action", "data") and name[:2] != "on"
        assert name != "href" or str(value).startswith("#")
    style = Path(page.__file__).with_name("templates") / "style.css"
    assert "url(" not in style.read_text() and "@import" not in style.read_text()


def test_pictures_have_titles_or_repeat_what_stands_beside_them() -> None:
    told = page.render(figures.host(9, 5)).decode()
    ids = re.findall(r' id="([^"]+)"', told)
    assert len(ids) == len(set(ids))
    pictures = re.findall(r"<svg ([^>]*)>\s*(<title id=\"([^\"]+)\">[^<]+</title>)?", told)
    assert len(pictures) > 20
    for attributes, title, own in pictures:
        assert ("aria-hidden" in attributes) != bool(title)
        assert not title or f'aria-labelledby="{own} ' in attributes
    for reference in re.findall(r'(?:aria-labelledby|aria-describedby|href)="([^"]+)"', told):
        assert {it.lstrip("#") for it in reference.split()} <= set(ids)


def test_it_is_written_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    page.check(path)
    page.write(SMALL, path)
    assert path.read_bytes().startswith(b'<!doctype html>\n<html lang="en">')
    with pytest.raises(UsageError, match="a directory"):
        page.write(SMALL, tmp_path)


def test_without_jinja_the_message_names_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for action in (page.check, lambda path: page.write(SMALL, path)):
        with pytest.raises(Unsupported, match=r'pip install "pagemerge\[report\]"'):
            action(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
