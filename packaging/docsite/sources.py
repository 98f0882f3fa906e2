"""The sources of the site: the pages of the repository, and those that are written from the code.

Pages of docs/ lie at the top, beside the pages of the repository's root (``ROOTS``), so that links
between them lead to pages of the site. Links to other files lead to the repository.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from docsite.pages import written

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/pagemerge/pagemerge/blob/main/"
ROOTS = {
    "README.md": "readme.md",
    "ARCHITECTURE.md": "architecture.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "STYLE.md": "style.md",
}
"""File in the repository's root -> page of the site."""

LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")
FILE = re.compile(r"\[(?:docs/|\.\./)?([\w-]+\.md)\]\((\S*?)([\w-]+\.md)(#[^)\s]*)?\)")
"""A link whose text is the name of the file: on the site, the title of the page is better."""
PICTURE = re.compile(r"^!\[([^]]*)\]\(pictures/([\w-]+)\.(svg|png)\)$", re.M)


def write(folder: Path) -> None:
    """Write all sources of the site to ``folder``, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(DOCS, folder)
    for name in ("conf.py", "index.md"):
        shutil.copy(HERE / name, folder)
    pages = {it.name: it.read_text(encoding="utf-8") for it in DOCS.glob("*.md")}
    pages = {name: page(text, DOCS) for name, text in pages.items()}
    for file, name in ROOTS.items():
        pages[name] = page((ROOT / file).read_text(encoding="utf-8"), ROOT)
    for name, text in {**pages, **generated()}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def generated() -> dict[str, str]:
    """Return the pages that are written from the code, with links into the site."""
    return {name: page(text, (DOCS / name).parent) for name, text in written().items()}


def page(text: str, folder: Path) -> str:
    """Make a page of the repository one of the site; ``folder`` is where it lies."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.S | re.M)
    linked = (it if it.startswith("```") else _linked(it, folder) for it in parts)
    return PICTURE.sub(_pictures, "".join(linked))


def _linked(text: str, folder: Path) -> str:
    text = LINK.sub(lambda found: _link(found, folder), text)
    return FILE.sub(lambda it: f"[]({it[2]}{it[3]}{it[4] or ''})" if _same(it) else it[0], text)


def _same(found: re.Match[str]) -> bool:
    """The text names the page that the link leads to, which is in the site."""
    return found[1].lower() == found[3] and not found[2].startswith("https:")


def _link(found: re.Match[str], folder: Path) -> str:
    target, anchor = found[1], found[2] or ""
    if re.match(r"[a-z]+:", target) or not target:
        return found[0]
    file = (folder / target).resolve()
    if file.parent == ROOT and file.name in ROOTS:
        return f"]({ROOTS[file.name]}{anchor})"
    if folder == ROOT and file.is_relative_to(DOCS):
        return f"]({file.relative_to(DOCS)}{anchor})"
    if file.is_relative_to(DOCS):
        return found[0]
    return f"]({REPOSITORY}{file.relative_to(ROOT)}{anchor})"


def _pictures(found: re.Match[str]) -> str:
    """Show the picture for light or dark pages, where there are both: NAME and NAME-dark."""
    about, name, kind = found.groups()
    if not (DOCS / "pictures" / f"{name}-dark.{kind}").exists():
        return found[0]
    shown = (("only-light", name), ("only-dark", f"{name}-dark"))
    return "\n".join(
        f"```{{image}} pictures/{file}.{kind}\n:alt: {about}\n:class: {theme}\n```"
        for theme, file in shown
    )
