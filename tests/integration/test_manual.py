"""Man pages, generated from the parsers and the settings, as man and mandoc read them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from pagemerge import __version__, cli
from pagemerge.config import Configuration
from pagemerge.settings import schema
from tests.conftest import missing
from tests.support.manual import share

PAGES = ["pagemerge.1", "pagemerge.toml.5", *(f"pagemerge-{verb}.1" for verb in cli.VERBS)]


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``man`` with the generated pages."""
    return share(tmp_path_factory.mktemp("manual")) / "man"


def path(man: Path, page: str) -> Path:
    """The file of a page."""
    return man / f"man{page[-1]}" / page


def shown(page: Path) -> subprocess.CompletedProcess[str]:
    """A page as man(1) prints it, with groff's warnings on stderr."""
    if not shutil.which("man") or not shutil.which("groff"):
        missing("man", "man-db and groff are not both installed")
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "200", "MAN_KEEP_FORMATTING": ""}
    argv = ["man", "--warnings=w", "--local-file", str(page)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)


def test_there_is_a_page_for_each_verb(man: Path) -> None:
    assert sorted(it.name for it in man.rglob("*") if it.is_file()) == sorted(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_groff_has_nothing_to_warn_of(page: str, man: Path) -> None:
    done = shown(path(man, page))
    assert (done.returncode, done.stderr) == (0, "")
    assert f"pagemerge {__version__}" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_nothing_to_find_fault_with(page: str, man: Path) -> None:
    program = shutil.which("mandoc") or missing("mandoc", "mandoc is not installed")
    done = subprocess.run(
        [program, "-T", "lint", "-W", "style", str(path(man, page))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The page of the bare command points to pages that are not installed yet.
    told = [it for it in done.stdout.splitlines() if "referenced manual not found" not in it]
    assert not told


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_page_has_all_that_the_help_has(verb: str, man: Path) -> None:
    text = " ".join(shown(path(man, f"pagemerge-{verb}.1")).stdout.split())
    parser = cli.parser(verb)
    for action in parser._actions:  # argparse has no public list of them
        assert all(f" {option}" in text for option in action.option_strings)
        told = " ".join(((action.help or "") % vars(action)).split())
        assert told[1:] in text, told
    sentences = " ".join((cli.load(verb).__doc__ or "").replace("`", "").split()).split(". ")
    assert all(it.rstrip(".").removeprefix("Exit status: ")[1:] in text for it in sentences)


def test_a_page_has_each_key_with_its_text(man: Path) -> None:
    text = " ".join(shown(path(man, "pagemerge.toml.5")).stdout.split())
    for field in msgspec.structs.fields(Configuration):
        assert f"[{field.name}]" in text
    for table in schema.tables(Configuration):
        assert f"{table.header} {table.about.replace('`', '')} {table.keys[0].name}" in text
        assert all(f"{it.name} {it.about.replace('`', '')}" in text for it in table.keys)
    assert "Number, above 0, up to 100, percent of one core. Default: 50." in text


def test_man_finds_the_pages_by_name(man: Path) -> None:
    """mandb(8), which reads the NAME sections, can make an index of the pages."""
    lexgrog = shutil.which("lexgrog") or missing("man", "man-db is not installed")
    files = [str(path(man, page)) for page in PAGES]
    done = subprocess.run([lexgrog, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(PAGES)
    assert f'"pagemerge-status - {cli.VERBS["status"]}"' in done.stdout
