"""The direction of imports, and no circle:

``linux <- find <- estimate, hub, ksmd <- watch <- service <- cli``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pagemerge

PACKAGE = Path(pagemerge.__file__).parent
ARRAYS = ("NDArray", "U64", "U32", "I64", "Bools")
BASE = {"model", "errors", "_core"}
MAY_IMPORT = {
    "errors": set[str](),
    "model": {"_core"},
    "figures": {"model"},
    "linux": BASE,
    "find": BASE | {"linux"},
    "estimate": BASE | {"linux", "find"},
    "report": BASE | {"figures", "linux", "find"},
    "hub": BASE | {"linux", "find"},
    "ksmd": BASE | {"linux", "find"},
    "watch": BASE | {"figures", "linux", "find", "hub", "ksmd", "config"},
    "service": BASE | {"figures", "linux", "find", "hub", "ksmd", "config", "watch"},
    "settings": BASE | {"linux"},
    "config": BASE | {"hub", "ksmd", "service", "settings"},
    "arrays": BASE | {"linux", "hub"},
    "data": BASE | {"arrays"},
    "kubernetes": BASE | {"linux", "config", "settings"},
    "demo": BASE | {"linux", "find", "hub", "arrays"},
    "cli": BASE
    | {"figures", "linux", "find", "estimate", "report", "hub", "ksmd", "config", "demo"}
    | {"watch", "service", "settings", "kubernetes"},
    "__main__": {"cli"},
}
"""Module or package below ``pagemerge`` -> what it may import of the others."""


def modules() -> dict[str, Path]:
    """Dotted name below ``pagemerge`` -> file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = file
    return found


def imported(file: Path) -> Iterator[str]:
    """Dotted names below ``pagemerge`` that a file imports: in functions and for types, too."""
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "pagemerge":
                yield rest


def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    files = modules()
    return {
        name: {it if it in files else it.rpartition(".")[0] for it in imported(file)} - {name, ""}
        for name, file in files.items()
    }


@pytest.mark.parametrize("name", sorted({it.partition(".")[0] for it in modules()} - {"__init__"}))
def test_a_package_imports_what_lies_below_it(name: str) -> None:
    assert name in MAY_IMPORT, f"pagemerge.{name} has no place in the order"
    for module, others in graph().items():
        if module.partition(".")[0] == name:
            foreign = {it.partition(".")[0] for it in others} - MAY_IMPORT[name] - {name}
            assert not foreign, f"pagemerge.{module} imports {foreign}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges, left = graph(), set(modules())
    while free := {it for it in left if not edges[it] & left}:
        left -= free
    assert not left, f"these import each other in a circle: {sorted(left)}"


def test_decisions_do_no_io() -> None:
    doors = {"os", "io", "socket", "subprocess", "pathlib", "mmap", "threading", "time"}
    files = [PACKAGE / "model.py", *PACKAGE.glob("*/model.py"), *PACKAGE.glob("*/decide/*.py")]
    assert len(files) > 10
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                opened = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                opened = {(node.module or "").partition(".")[0]}
            else:
                continue
            assert not opened & doors, f"{file.relative_to(PACKAGE)} imports {opened & doors}"


def test_what_holds_arrays_is_compared_by_identity() -> None:
    """``list.remove`` and ``in`` compare; arrays of two lengths cannot be compared, and raise."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(), str(file))):
            if not isinstance(node, ast.ClassDef):
                continue
            how = " ".join(map(ast.unparse, node.decorator_list))
            fields = [
                ast.unparse(it.annotation) for it in node.body if isinstance(it, ast.AnnAssign)
            ]
            holds = any(name in field for field in fields for name in ARRAYS)
            if "dataclass" in how and holds:
                found.append(node.name)
                assert "eq=False" in how, f"{file.relative_to(PACKAGE)}: {node.name}"
    assert "Filling" in found
