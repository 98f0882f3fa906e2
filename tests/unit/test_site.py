"""The site has everything that the code has, and no link of the docs leads nowhere."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest
from docsite import models, objects, sources
from docsite.pages import written

import pagemerge
from pagemerge import cli
from pagemerge.config import Configuration
from pagemerge.service.api.calls import ERRORS, METHODS
from pagemerge.settings import schema
from pagemerge.watch import metrics, model
from tests.support import configuration, reference

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [*ROOT.glob("*.md"), *DOCS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = written()


def options(parser: argparse.ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings) - {"-h", "--help"}
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options, action.choices.values()))
    return found


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_option_is_on_the_page_of_its_verb(verb: str) -> None:
    page = PAGES[f"verbs/{verb}.md"]
    assert page.startswith(f"# pagemerge {verb}\n")
    for name in options(cli.parser(verb)):
        assert re.search(rf"`{re.escape(name)}[` ]", page), name


def test_the_pages_by_hand_have_what_the_code_has() -> None:
    for support in (reference, configuration):
        page = support.PAGE.read_text()
        assert support.renewed(page) == page, f"run: python -m {support.__name__}"


def test_every_key_metric_and_call_is_there() -> None:
    settings = (ROOT / "docs" / "configuration.md").read_text()
    for table in schema.tables(Configuration):
        assert all(f"| `{key.name}` |" in settings for key in table.keys)
    assert all(f"`pagemerge_{name}`" in PAGES["metrics.md"] for name in metrics.METRICS)
    for name in (*model.Moment.__struct_fields__, *model.Row.__struct_fields__):
        assert f"| `{name}` |" in PAGES["figures.md"]
    for interface in METHODS:
        for call in METHODS[interface]:
            assert f"| `{call}` |" in PAGES["interface.md"]
            assert f"method {call}(" in PAGES["interface.md"]
        assert all(f"error {name} (" in PAGES["interface.md"] for name in ERRORS[interface])
    for name in pagemerge.__all__:
        assert re.search(rf"^### {name}$|^\| `{name}` \|", PAGES["python.md"], re.M), name


def test_every_member_of_what_is_printed_is_there() -> None:
    for page, roots in objects.PRINTED.items():
        for root in roots.values():
            for found in models.reached(root):
                text = PAGES["figures.md" if found in objects.FIGURES else f"json/{page}.md"]
                for member in models.fields(found):
                    assert f"| `{member.name}` |" in text, (found, member.name)


def test_every_verb_with_json_has_its_objects() -> None:
    """``attach`` and ``detach`` share a page."""
    shown = {it for roots in objects.PRINTED.values() for it in roots}
    having = {verb for verb in cli.VERBS if "--json" in options(cli.parser(verb))}
    assert having == {it.split()[1] for it in shown if it.startswith("pagemerge ")}


VARIABLE = re.compile(r"""environ(?:ment)?(?:\.(?:get|pop|setdefault))?[(\[]\s*"([A-Z_]+)""")


def test_every_variable_that_is_read_is_in_the_reference() -> None:
    texts = [it.read_text() for it in (ROOT / "python").rglob("*.py")]
    read = {name for text in texts for name in VARIABLE.findall(text)}
    page = (ROOT / "docs" / "reference.md").read_text()
    assert {"XDG_RUNTIME_DIR", "NOTIFY_SOCKET", "PAGEMERGE_SOCKET"} <= read
    assert not [it for it in read if f"| `{it}` |" not in page]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(name: str) -> None:
    """No cell is cut by a bar in it, and no mark of code is left open."""
    wanted = 0
    for line in PAGES[name].split("\n"):
        row = line.replace("\\|", "")
        if not row.startswith("|"):
            wanted = 0
            continue
        wanted = wanted or row.count("|")
        assert row.count("|") == wanted and row.endswith("|"), line
        assert line.count("`") % 2 == 0, line


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def bare(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def broken(page: Path) -> Iterator[str]:
    """Links of a page that lead to no file or heading beside it."""
    text = bare(page.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists():
            yield target
        elif anchor and file.suffix == ".md":
            found = re.findall(r"^#+ (.*)$", bare(file.read_text()), re.M)
            if anchor not in set(map(slug, found)):
                yield target


@pytest.mark.parametrize("page", TEXTS, ids=lambda it: it.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert not list(broken(page))


def test_links_of_the_site_lead_to_its_pages_or_to_files_of_the_repository(tmp_path: Path) -> None:
    sources.write(tmp_path / "site")
    pages = list((tmp_path / "site").rglob("*.md"))
    assert len(pages) > 40
    for page in pages:
        assert not list(broken(page)), page
        text = page.read_text()
        for target in re.findall(rf"\]\({re.escape(sources.REPOSITORY)}([^)#]+)", text):
            assert (ROOT / target).exists(), (page, target)
        assert "](../" not in text or page.parent != tmp_path / "site"


def test_pictures_for_light_and_dark_pages_come_in_pairs() -> None:
    shown = sources.page("![A](pictures/top.svg)\n", ROOT / "docs")
    assert re.findall(r":class: (.*)", shown) == ["only-light", "only-dark"]
    assert re.findall(r"pictures/(.*)", shown) == ["top.svg", "top-dark.svg"]
    alone = "![A](pictures/demo.svg)\n"
    assert sources.page(alone, ROOT / "docs") == alone


def test_the_index_names_every_page() -> None:
    index = (ROOT / "packaging" / "docsite" / "index.md").read_text()
    names = {*(it.stem for it in DOCS), *(it.removesuffix(".md") for it in PAGES)}
    names |= {it.removesuffix(".md") for it in sources.ROOTS.values()}
    for name in names - {it for it in names if "/" in it and not it.endswith("/index")}:
        assert re.search(rf"^(?:Overview <)?{re.escape(name)}>?$", index, re.M), name


def test_sphinx_builds_it_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason=f"{name} is not installed: `make docs` installs it")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "packaging")}
    argv = [sys.executable, "-m", "docsite", str(tmp_path)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = tmp_path / "docs"
    assert "pagemerge_saved_bytes" in (made / "metrics.html").read_text()
    assert "<code" not in (made / "verbs" / "scan.html").read_text().partition("<body")[0]
    pages = {it.resolve(): it.read_text() for it in made.rglob("*.html")}
    ids = {it: set(re.findall(r'\bid="([^"]+)"', text)) for it, text in pages.items()}
    for page, text in pages.items():
        for target in map(unescape, re.findall(r'<a\b[^>]*\bhref="([^"]*)"', text)):
            name, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (page.parent / unquote(name)).resolve() if name else page
            assert file.exists(), (page, target)
            assert not anchor or unquote(anchor) in ids.get(file, {anchor}), (page, target)
