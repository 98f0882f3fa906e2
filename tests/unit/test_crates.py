"""No circle between the modules of a crate: each file uses only files that do not use it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CRATES = sorted((Path(__file__).parents[2] / "crates").iterdir())


def files(source: Path) -> dict[str, Path]:
    """Module path inside the crate -> file; the crate itself is the empty path."""
    found = {}
    for file in source.rglob("*.rs"):
        name = "::".join(file.relative_to(source).with_suffix("").parts)
        found["" if name == "lib" else name.removesuffix("::mod")] = file
    return found


def expanded(use: str) -> list[str]:
    """``a::{b, c::d}`` as ``a::b`` and ``a::c::d``."""
    use = re.sub(r"\s+", "", use)
    if not (braces := re.fullmatch(r"(.*?)\{(.*)\}", use)):
        return [use]
    parts, depth = [""], 0
    for letter in braces[2]:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [one for part in parts if part for one in expanded(braces[1] + part)]


def used(name: str, text: str, known: dict[str, Path]) -> set[str]:
    """The modules that a module names by ``crate::``, ``super::`` or ``self::``; not in tests."""
    text = re.sub(r"//[^\n]*", "", text).split("#[cfg(test)]")[0]
    found = set()
    for how, path in re.findall(r"\b(crate|super|self)::((?:[\w:]|\{[^;]*?\}(?=;)|\s*)+)", text):
        own = [part for part in name.split("::") if part]
        base = {"crate": [], "super": own[:-1], "self": own}[how]
        for one in expanded(path):
            parts = base + one.strip(":").split("::")
            while parts and "::".join(parts) not in known:
                parts.pop()
            found.add("::".join(parts))
    return found - {name}


@pytest.mark.parametrize("crate", CRATES, ids=lambda crate: crate.name)
def test_no_module_uses_itself_by_way_of_others(crate: Path) -> None:
    known = files(crate / "src")
    edges = {name: used(name, file.read_text(), known) for name, file in known.items()}
    assert "" in edges
    left = set(edges)
    while free := {it for it in left if not edges[it] & left}:
        left -= free
    assert not left, f"these use each other in a circle: {sorted(left)}"


def test_a_circle_would_be_seen() -> None:
    known = dict.fromkeys(("", "a", "a::b", "c"), Path())
    assert used("a::b", "use crate::{c::{D, E}, a};\nuse super::F;", known) == {"a", "c"}
    assert used("a", "fn f() { crate::c::g() } // crate::a::b", known) == {"c"}
