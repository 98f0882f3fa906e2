"""The site has everything that the code has, and no link of the docs leads nowhere."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pagemerge import cli
from pagemerge.config import Configuration
from pagemerge.settings import schema
from pagemerge.watch import metrics, model

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *DOCS]
LINK = re.compile(r"\]\(([^)\s]+)\)")
WRITE = "import json; from docsite.pages import written; print(json.dumps(written()))"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """The pages that are written from the code."""
    import json

    folder = ROOT / "packaging"
    argv = [sys.executable, "-c", WRITE]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def options(parser: argparse.ArgumentParser) -> set[str]:
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*map(options, action.choices.values()))
    return found


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_option_is_on_the_page_of_its_verb(verb: str, pages: dict[str, str]) -> None:
    page = pages[f"verbs/{verb}.md"]
    assert page.startswith(f"# pagemerge {verb}\n")
    for name in options(cli.parser(verb)):
        assert re.search(rf"`{re.escape(name)}[` ]", page), name


def test_every_key_metric_and_figure_is_there(pages: dict[str, str]) -> None:
    for table in schema.tables(Configuration):
        assert all(f"| `{key.name}` |" in pages["keys.md"] for key in table.keys)
    assert all(f"`pagemerge_{name}`" in pages["metrics.md"] for name in metrics.METRICS)
    for name in (*model.Moment.__struct_fields__, *model.Row.__struct_fields__):
        assert f"| `{name}` |" in pages["figures.md"]
    assert "method Subscribe(" in pages["interface.md"]


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    return {slug(it) for it in re.findall(r"^#+ (.*)$", plain, re.M)}


@pytest.mark.parametrize("page", TEXTS, ids=lambda it: it.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), target


def test_sphinx_builds_it_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name, reason=f"{name} is not installed: `make docs` installs it")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "packaging")}
    argv = [sys.executable, "-m", "docsite", str(tmp_path)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "pagemerge_saved_bytes" in (tmp_path / "docs" / "metrics.html").read_text()


def test_the_index_names_every_page(pages: dict[str, str]) -> None:
    index = (ROOT / "packaging" / "docsite" / "index.md").read_text()
    names = {*(it.stem for it in DOCS), *(it.removesuffix(".md") for it in pages)}
    for name in names - {f"verbs/{verb}" for verb in cli.VERBS}:
        assert re.search(rf"^{re.escape(name)}$", index, re.M), name
