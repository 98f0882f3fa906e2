"""The documents are whole: no row of a table is cut off, no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_every_row_of_a_table_has_its_cells(document: Path) -> None:
    wanted = 0
    for number, line in enumerate(document.read_text().split("\n"), 1):
        row = line.replace("\\|", "")  # a bar ends a cell in code, too, unless it is escaped
        if not row.startswith("|"):
            wanted = 0
            continue
        wanted = wanted or row.count("|")
        assert row.count("|") == wanted and row.endswith("|"), f"line {number}: {line}"


def test_every_paragraph_comes_to_its_end(document: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.S | re.M)
    for paragraph in re.split(r"\n{2,}", prose):
        if paragraph.strip() and not paragraph.lstrip().startswith(("|", "#", "<")):
            assert paragraph.rstrip()[-1] in ".:!?)*`", paragraph
            assert paragraph.count("`") % 2 == 0, paragraph


def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target
